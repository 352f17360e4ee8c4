"""Two checkpoints on the same questions, from the record of every sample that evaluations keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.registry.noise import Spread
from vila_core.errors import UserError
from vila_core.eval.answers import Answers, Key, is_binary, shared_places
from vila_core.eval.bootstrap import unit_error, unit_interval, unit_sums
from vila_core.eval.significance import holm, mcnemar, minimum_detectable_effect, permutation
from vila_core.store import Store
from vila_ops.evaluations import Evaluation, open_evaluation

LEVEL, POWER = 0.95, 0.8


@dataclass(frozen=True)
class Row:
    """One benchmark at one number of shots. Scores and differences (second minus first) are means.

    `test` is "McNemar, exact" or "permutation"; `p` its value alone, `p_holm` corrected for all
    rows. `detectable` is the least true difference that this comparison finds with 80% power; None
    where the answers never differ. `left_out` counts questions that only one of both was asked,
    `other_prompts` those that were put in other words or with other images. `noise` is how far
    apart seeds alone put the mean score of two trainings, where the ledger knows it.
    """

    benchmark: str
    shots: int
    questions: int
    units: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    test: str
    p: float
    p_holm: float
    detectable: float | None
    left_out: int
    other_prompts: int
    noise: float | None = None

    @property
    def name(self) -> str:
        """The row's name, `benchmark@shots`."""
        return f"{self.benchmark}@{self.shots}"

    @property
    def verdict(self) -> str:
        """What the row says of the second: better, worse, or that no difference was found."""
        if self.p_holm > 1 - LEVEL:
            return "no difference found"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Paired:
    """The comparison of two checkpoints, by benchmark. `skipped` says why some are not in it."""

    first: str
    second: str
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    tests: int
    """How many the p-values are corrected for."""

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON-able mapping."""
        return {
            "first": self.first,
            "second": self.second,
            "level": LEVEL,
            "power": POWER,
            "corrected_for": self.tests,
            "rows": [asdict(row) | {"verdict": row.verdict} for row in self.rows],
            "skipped": dict(self.skipped),
        }


def compare_paired(
    store: Store, first: str, second: str, noise: Mapping[str, Spread] | None = None
) -> Paired:
    """Compare two runs, or two evaluations (`RUN:TASK`), question by question.

    A run means its final evaluation, or all its evaluations where it has no such task. `noise` is
    what the ledger knows, by metric (`benchmark/accuracy@shots` is looked up). Raises UserError
    where there are no records, or none of the same questions.
    """
    ours, theirs = (open_evaluation(store, text) for text in (first, second))
    (found,) = assemble([pair_of(ours, theirs)], noise)
    if not found.rows:
        why = "; ".join(f"{name}: {reason}" for name, reason in found.skipped.items())
        raise UserError(
            f"{ours.name} and {theirs.name} have no scored question in common ({why}); evaluate "
            "both on the same benchmark"
        )
    return found


@dataclass(frozen=True)
class Pair:
    """What two evaluations say of each other, before it is known how many tests there are.

    `made` holds a row's values, with the `error` of its difference, by `benchmark@shots`.
    """

    first: str
    second: str
    made: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]


def pair_of(ours: Evaluation, theirs: Evaluation) -> Pair:
    """Test two evaluations question by question."""
    skipped = {
        f"{name}@{shots}": f"only in {side.name}"
        for side, other in ((ours, theirs), (theirs, ours))
        for name, shots in side.groups
        if (name, shots) not in other.groups
    }
    made: dict[str, Mapping[str, Any]] = {}
    for key in ours.groups:
        if key not in theirs.groups:
            continue
        name = f"{key[0]}@{key[1]}"
        found = _compared(ours.groups[key], theirs.groups[key], key)
        if isinstance(found, str):
            skipped[name] = found
        else:
            made[name] = found
    return Pair(ours.name, theirs.name, made, skipped)


def assemble(pairs: Sequence[Pair], noise: Mapping[str, Spread] | None = None) -> list[Paired]:
    """Return the comparisons, with p-values corrected (Holm) for all tests in all of them."""
    corrected = holm(
        {
            f"{place} {name}": row["p"]
            for place, pair in enumerate(pairs)
            for name, row in pair.made.items()
        }
    )
    return [
        Paired(
            pair.first,
            pair.second,
            tuple(
                Row(
                    **{key: value for key, value in row.items() if key != "error"},
                    p_holm=corrected[f"{place} {name}"],
                    detectable=minimum_detectable_effect(
                        row["error"], level=LEVEL, power=POWER, comparisons=len(corrected)
                    )
                    if row["error"]
                    else None,
                    noise=_noise(noise or {}, row),
                )
                for name, row in pair.made.items()
            ),
            pair.skipped,
            len(corrected),
        )
        for place, pair in enumerate(pairs)
    ]


def _noise(noise: Mapping[str, Spread], row: Mapping[str, Any]) -> float | None:
    spread = noise.get(f"{row['benchmark']}/accuracy@{row['shots']}")
    return None if spread is None else spread.difference()


def _compared(ours: Answers, theirs: Answers, key: Key) -> dict[str, Any] | str:
    """Return a row's values with the `error` of its difference, or why there is no row."""
    if ours.versions != theirs.versions:
        both = " and ".join(", ".join(sorted(each.versions)) or "none" for each in (ours, theirs))
        return f"asked by different versions of the benchmark ({both}); evaluate both again"
    if not (ours.scored and theirs.scored):
        return "scores are not known here (the answers are not public, or a judge is missing)"
    places = shared_places(ours, theirs)
    if not len(places[0]):
        return "asked of different questions"
    units = ours.asked.units[places[0]]
    a, b = ours.scores[places[0]], theirs.scores[places[1]]
    differences = b - a
    interval = unit_interval(differences, units, level=LEVEL)
    test, p = _test(a, b, units)
    return {
        "benchmark": key[0],
        "shots": key[1],
        "questions": len(units),
        "units": len(np.unique(units)),
        "first": math.fsum(a) / len(a),
        "second": math.fsum(b) / len(b),
        "difference": interval["mean"],
        "low": interval["low"],
        "high": interval["high"],
        "test": test,
        "p": p,
        "left_out": len(ours) + len(theirs) - 2 * len(units),
        "other_prompts": int((ours.prompts[places[0]] != theirs.prompts[places[1]]).sum()),
        "error": unit_error(differences, units),
    }


def _test(
    first: NDArray[np.float64], second: NDArray[np.float64], units: NDArray[np.unsignedinteger]
) -> tuple[str, float]:
    """Test by McNemar where scores are 0 or 1 and questions stand alone, else by permutation."""
    if is_binary(first, second) and len(np.unique(units)) == len(units):
        return "McNemar, exact", mcnemar(first.tolist(), second.tolist())
    return "permutation", permutation(unit_sums(second - first, units)[:, 0].tolist())
