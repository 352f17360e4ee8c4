"""What a comparison says, in one value that the page, the API, exports and the terminal show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from components.registry.noise import Spread
from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.comparing.chosen import Chosen, Problem, choose, permanent_path
from vila_ops.comparing.pairs import Outcome, Pairs
from vila_ops.comparing.seeds import SeedGroup, seed_groups
from vila_ops.comparing.settings import Section, settings_of
from vila_ops.noise import known_noise
from vila_ops.paired import Row
from vila_ops.run_index import finite


@dataclass(frozen=True)
class Score:
    """What a run scored in one benchmark: `row` is the test against the reference.

    `why` says what is in the way of a test. The reference has a score alone.
    """

    score: float | None = None
    row: Row | None = None
    why: str = ""
    pending: bool = False

    @property
    def verdict(self) -> str:
        """The test's verdict in words, with a hint where seeds alone explain the difference."""
        if self.row is None:
            return ""
        apart = abs(self.row.difference)
        within = self.row.noise is not None and apart <= self.row.noise
        found = self.row.verdict != "no difference found"
        return f"{self.row.verdict}, within seeds" if found and within else self.row.verdict


@dataclass(frozen=True)
class Metric:
    """A metric of all runs, with how far two runs lie apart by their seeds alone."""

    name: str
    values: tuple[float | None, ...]
    noise: Spread | None

    @property
    def same(self) -> bool:
        """Whether all runs have the same value."""
        return all(value == self.values[0] for value in self.values)


@dataclass(frozen=True)
class Report:
    """Runs against a reference (`reference` is its place)."""

    runs: tuple[Chosen, ...]
    problems: tuple[Problem, ...]
    reference: int
    groups: tuple[SeedGroup, ...]
    settings: tuple[Section, ...]
    outcomes: tuple[Outcome, ...]
    """By run; the reference's own is empty."""
    scores: Mapping[str, tuple[Score, ...]]
    """By benchmark@shots."""
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...]

    @property
    def link(self) -> str:
        """The page of these runs, by whole ids."""
        path = permanent_path(self.runs)
        if not self.reference:
            return path
        return f"{path}&ref={quote(self.runs[self.reference].name, safe=':')}"

    @property
    def pending(self) -> tuple[str, ...]:
        """The runs whose tests are not there yet."""
        return tuple(
            run.name
            for place, (run, outcome) in enumerate(zip(self.runs, self.outcomes, strict=True))
            if place != self.reference and outcome.pending
        )

    @property
    def widest(self) -> float:
        """How far from zero the intervals of all differences reach; at least a hundredth."""
        rows = [row for each in self.outcomes if each.paired for row in each.paired.rows]
        return max([0.01, *(abs(end) for row in rows for end in (row.low, row.high))])

    @property
    def tests(self) -> int:
        """For how many tests the p-values are corrected."""
        return max((each.paired.tests for each in self.outcomes if each.paired), default=0)


def make_report(
    store: Store,
    pairs: Pairs,
    texts: Sequence[str],
    *,
    reference: str = "",
    size: str | None = None,
    patience: float | None = None,
) -> Report:
    """Compare runs as they are named; `reference` is one of them, by default the first.

    What can't be read is in `problems`. Raises UserError for a reference that is none of the runs,
    and Unreachable.
    """
    runs, problems = choose(store, texts)
    place = _place(runs, reference)
    noise: Mapping[str, Spread] = {}
    try:
        noise = known_noise(store, size, [one.view.run_id for one in runs])
    except UserError as error:
        problems.append(Problem("noise of seeds", str(error)))
    outcomes = [Outcome() for _ in runs]
    others = [number for number in range(len(runs)) if number != place]
    if others:
        against = [runs[number] for number in others]
        found = pairs.against(runs[place], against, noise, patience)
        for number, outcome in zip(others, found, strict=True):
            outcomes[number] = outcome
    settings = settings_of(runs) if runs else []
    return Report(
        runs=tuple(runs),
        problems=tuple(problems),
        reference=place,
        groups=tuple(seed_groups(runs)),
        settings=tuple(settings),
        outcomes=tuple(outcomes),
        scores=_scores(outcomes, place),
        metrics=tuple(_metrics(runs, noise)),
        warnings=tuple(_warnings(runs, settings, outcomes, place)),
    )


def metrics_of(one: Chosen) -> dict[str, float]:
    """Return the metrics of a run, or of the one evaluation that was chosen of it."""
    task = one.view.task(one.task) if one.task else None
    found = one.view.metrics if task is None else task.metrics
    numbers = {key: finite(value) for key, value in found.items() if "@" in key}
    return {key: value for key, value in numbers.items() if value is not None}


def benchmark_names(evaluated: Mapping[str, object]) -> list[str]:
    """Return the benchmarks of `benchmark@shots` names, each once."""
    return list(dict.fromkeys(name.rpartition("@")[0] for name in evaluated))


def _place(runs: Sequence[Chosen], reference: str) -> int:
    if not reference:
        return 0
    for place, one in enumerate(runs):
        if reference in (one.name, one.letter):
            return place
    names = ", ".join(one.name for one in runs)
    raise UserError(f"the reference '{reference}' is none of the runs; name one of: {names}")


def _scores(outcomes: Sequence[Outcome], reference: int) -> dict[str, tuple[Score, ...]]:
    names = dict.fromkeys(
        name
        for outcome in outcomes
        if outcome.paired
        for name in (*(row.name for row in outcome.paired.rows), *outcome.paired.skipped)
    )
    found: dict[str, list[Score]] = {name: [] for name in names}
    tested = [
        {row.name: row for row in outcome.paired.rows} if outcome.paired else {}
        for outcome in outcomes
    ]
    for name, cells in found.items():
        for place, outcome in enumerate(outcomes):
            row = tested[place].get(name)
            if place == reference:
                of = [each[name] for each in tested if name in each]
                most = max(of, key=lambda one: one.questions, default=None)
                cells.append(Score(score=None if most is None else most.first))
            elif row is not None:
                cells.append(Score(row.second, row))
            else:
                why = outcome.paired.skipped.get(name, "") if outcome.paired else outcome.problem
                cells.append(Score(why=why, pending=outcome.pending))
    return {name: tuple(cells) for name, cells in found.items()}


def _metrics(runs: Sequence[Chosen], noise: Mapping[str, Spread]) -> list[Metric]:
    given = [
        metrics_of(one)
        | {
            f"{task.name}/{key}": task.metrics[key]
            for task in one.view.tasks
            for key in ("loss",)
            if finite(task.metrics.get(key)) is not None
        }
        for one in runs
    ]
    names = sorted(dict.fromkeys(name for part in given for name in part))
    return [
        Metric(name, tuple(part.get(name) for part in given), noise.get(name)) for name in names
    ]


def _warnings(
    runs: Sequence[Chosen], settings: Sequence[Section], outcomes: Sequence[Outcome], reference: int
) -> list[str]:
    """Say what makes a difference mean less than it seems."""
    said = []
    for status in ("running", "failed", "stopped", "interrupted"):
        names = [one.letter for one in runs if one.view.status == status]
        if names and status == "running":
            said.append(f"{_and(names)} still running: what is shown of it will change.")
        elif names:
            said.append(f"{_and(names)} {status}: what came before is compared.")
    codes = {one.view.code_digest for one in runs}
    if len(codes) > 1:
        said.append("The code differs: not settings alone set these runs apart.")
    for section in settings:
        if section.name == "data" and section.different:
            names = ", ".join(one.key for one in section.different)
            said.append(f"The data differ ({names}).")
    for place, outcome in enumerate(outcomes):
        if place == reference or outcome.paired is None:
            continue
        letter = runs[place].letter
        other = [
            name for name, why in outcome.paired.skipped.items() if "different versions" in why
        ]
        if other:
            said.append(
                f"{letter}: {', '.join(other)} by another version of the benchmark, not compared."
            )
        partly = [row.name for row in outcome.paired.rows if row.left_out]
        if partly:
            said.append(f"{letter}: only partly the same questions in {_some(partly)}.")
        asked = [row.name for row in outcome.paired.rows if row.other_prompts]
        if asked:
            said.append(f"{letter}: other prompts (template, demonstrations) in {_some(asked)}.")
    return said


def _and(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
