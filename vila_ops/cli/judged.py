"""What the gates said, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from vila_ops.cli.render import console

if TYPE_CHECKING:
    from components.registry import HistoryEntry
    from components.registry.gates.verdict import Verdict
    from vila_ops.registry.promote import Judgement

PAIRED = {
    "non-inferior": "not worse than version {version} by {margin:.3g} points or more",
    "superior": "better than version {version} by more than {margin:.3g} points",
}


def print_judgement(found: Judgement) -> None:
    """Print what is to be moved where, and one line per gate."""
    out = console()
    before = "nothing yet" if found.before is None else f"version {found.before}"
    out.print(
        Text.assemble(
            (found.what, "bold"),
            f" to {found.model}@{found.alias} (now {before}), gates {found.gates_name}",
        ),
        soft_wrap=True,
    )
    plain = [verdict for verdict in found.verdicts if "p_holm" not in verdict.details]
    if plain:
        out.print()
        out.print(_plain_table(plain))
    tested = [verdict for verdict in found.verdicts if "p_holm" in verdict.details]
    for asked in dict.fromkeys(_asked(verdict) for verdict in tested):
        part = [verdict for verdict in tested if _asked(verdict) == asked]
        out.print()
        out.print(Text(asked, style="bold"))
        out.print(_paired_table(part))
    for line in dict.fromkeys(_legend(tested)):
        out.print(Text(line, style="dim"), soft_wrap=True)
    out.print()


def print_outcome(found: Judgement, entry: HistoryEntry | None, *, dry_run: bool) -> None:
    """Print what happened, and what comes next."""
    out = console()
    alias = f"{found.model}@{found.alias}"
    failed = [verdict for verdict in found.verdicts if not verdict.passed]
    told = f"{len(failed)} of {len(found.verdicts)} gates failed"
    if found.stands:
        lines = [f"{alias} stands at version {found.before} already; nothing was moved."]
    elif entry is not None:
        forced = f" by force: {told}; this is marked for ever" if entry.forced else ""
        lines = [
            f"{alias} is now version {entry.after}{forced}.",
            f"  next: vila ask {alias} …; back again: vila rollback {alias} --why TEXT",
        ]
    elif dry_run and not failed:
        lines = ["All gates pass. Nothing was moved: this was a dry run."]
    elif dry_run:
        lines = [f"{told}. Nothing was moved: this was a dry run."]
    else:
        lines = [
            f"NOT promoted: {told}; {alias} stays where it was.",
            "  next: what the gates ask for; or --force --why TEXT, which is marked for ever",
        ]
    for verdict in failed:
        fix = verdict.details.get("fix")
        if fix:
            lines.append(f"  {verdict.details['gate']}: {fix}")
    for line in lines:
        out.print(Text(line), soft_wrap=True)


def _plain_table(verdicts: Iterable[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("gate", overflow="fold")
    table.add_column("found", justify="right", overflow="fold")
    table.add_column("asked", overflow="fold")
    for verdict in verdicts:
        details = verdict.details
        table.add_row(
            mark(verdict.passed),
            Text(str(details.get("gate", verdict.text))),
            Text(_found(verdict.value, details)),
            Text(str(details.get("asked", ""))),
        )
    return table


def _asked(verdict: Verdict) -> str:
    details = verdict.details
    version, margin = details["baseline_version"], 100 * details["margin"]
    return PAIRED[verdict.kind].format(version=version, margin=margin)


def _paired_table(verdicts: Iterable[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("benchmark", overflow="fold")
    for column in ("n", "it has", "change", "bounds", "p", "can find"):
        table.add_column(column, justify="right", no_wrap=True)
    for verdict in verdicts:
        found = verdict.details
        least = found["detectable"]
        table.add_row(
            mark(verdict.passed),
            Text(found["gate"]),
            f"{found['n']:,}",
            f"{100 * found['second']:.1f}",
            f"{100 * found['difference']:+.1f}",
            f"{100 * found['low']:+.1f} … {100 * found['high']:+.1f}",
            probability(found["p_holm"]),
            "-" if least is None else f"{100 * least:.1f}",
        )
    return table


def probability(p: float) -> str:
    """Return a p-value in two digits; what is below the precision of the tests as such."""
    return "<1e-9" if p < 1e-9 else f"{p:.2g}"


def _legend(tested: Sequence[Verdict]) -> Iterator[str]:
    if not tested:
        return
    details = tested[0].details
    tests = " and ".join(dict.fromkeys(verdict.details["test"] for verdict in tested))
    yield (
        f"in points of 100; p: {tests}, one-sided, corrected for {details['tests']} tests (Holm); "
        f"bounds: one-sided, {details['level']:.0%} each; can find: how far beyond what is asked a "
        f"true difference must lie to be found {details['power']:.0%} of the time"
    )
    if details["lacking"]:
        yield f"not asked of this model: {', '.join(details['lacking'])}"
    for verdict in tested:
        found = verdict.details
        for whose, said in (("model", "this model"), ("present", "the present version")):
            source = found["records"][whose]
            if not source["own"]:
                place = f"{source['run_id']}:{source['task']}"
                yield f"{found['gate']}: {said} answered in {place}, not in its own evaluation"
        if found["only_present"] or found["left_out"]:
            both = found["only_present"] + found["left_out"]
            yield f"{found['gate']}: {both:,} questions were asked of one of both only"
        if found["other_prompts"]:
            yield f"{found['gate']}: {found['other_prompts']:,} prompts differ"


def mark(passed: bool) -> Text:
    """Return a verdict as a word."""
    return Text("passed", "green") if passed else Text("FAILED", "bold red")


def _found(value: float | None, details: Any) -> str:
    if "found" in details:
        return str(details["found"])
    return "unknown" if value is None else f"{value:.4g}"
