"""`vila compare`: runs side by side, paired tests, answers they disagree on, and all as files."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila_ops.cli.options import JsonOption, StoreOption, store_uri

if TYPE_CHECKING:
    from vila_core.store import Store
    from vila_ops.comparing.chosen import Chosen
    from vila_ops.samples import Samples

MOST_SHOWN = 20
PATIENCE_SECONDS = 24 * 3600.0


def compare(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two to twenty runs.")],
    paired: Annotated[
        bool,
        typer.Option(
            "--paired", help="Test two runs, or two evaluations RUN:TASK, question by question."
        ),
    ] = False,
    only_different: Annotated[
        bool, typer.Option("--only-different", help="Leave out metrics that all runs share.")
    ] = False,
    disagreements: Annotated[
        str | None,
        typer.Option(
            "--disagreements",
            metavar="BENCHMARK",
            help="Show questions that the first two score differently, pope or pope@0, with all "
            "answers; evaluations RUN:TASK too.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="So many disagreements.")
    ] = MOST_SHOWN,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Write metrics with paired tests as .csv, or tables for an issue as .md.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="SIZE",
            help="Whose noise of seeds to show.  [default: that at which one of the runs was "
            "added by: vila noise add]",
        ),
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show runs side by side: settings and metrics, paired tests, or answers that differ."""
    from vila_core.errors import UserError
    from vila_core.store import open_store
    from vila_ops.cli import comparison, render
    from vila_ops.compare import compare_runs
    from vila_ops.comparing.chosen import MOST_RUNS
    from vila_ops.noise import known_noise
    from vila_ops.paired import compare_paired
    from vila_ops.runs import find_run, load_view

    if len(run_ids) < 2:
        raise UserError(f"two or more runs are needed; try: vila compare {run_ids[0]} last")
    if len(run_ids) > MOST_RUNS:
        raise UserError(f"{len(run_ids)} runs are too many: at most {MOST_RUNS} are compared")
    opened = open_store(store_uri(store))
    if export is not None:
        _export(opened, run_ids, export, size)
        return
    if disagreements is not None:
        _disagree(opened, run_ids, disagreements, limit, json=json)
        return
    ids = [find_run(opened, text.partition(":")[0] if paired else text) for text in run_ids]
    known = known_noise(opened, size, ids)
    if paired:
        if len(run_ids) > 2:
            raise UserError("--paired compares two runs; name two of them")
        found = compare_paired(opened, run_ids[0], run_ids[1], known)
        if json:
            _print_json(found.as_json())
        else:
            comparison.print_paired(found)
            _print_page([found.first, found.second])
        return
    compared = compare_runs([load_view(opened, run_id) for run_id in ids], known)
    if only_different:
        compared = compared.only_different()
    if json:
        _print_json(compared.as_json())
    else:
        render.print_comparison(compared)
        _print_page(ids)


def _export(store: Store, texts: Sequence[str], path: Path, size: str | None) -> None:
    """Write a file. Raises UserError for another ending, and a place that can't be written."""
    from vila_core.errors import UserError
    from vila_ops.comparing.export import markdown, metrics_csv
    from vila_ops.comparing.pairs import Pairs
    from vila_ops.comparing.report import make_report
    from vila_ops.noise import known_noise

    if path.suffix not in (".csv", ".md"):
        raise UserError(f"--export {path}: the file's name must end in .csv or .md")
    known_noise(store, size)  # a size that is none is the user's mistake here
    chosen = _choose(store, texts)
    names = [one.name for one in chosen]
    report = make_report(store, Pairs(store), names, size=size, patience=PATIENCE_SECONDS)
    text = metrics_csv(report) if path.suffix == ".csv" else markdown(report)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"--export {path}: can't be written: {error.strerror}") from None
    typer.echo(f"written: {path}")


def _disagree(store: Store, texts: Sequence[str], name: str, limit: int, *, json: bool) -> None:
    from vila_core.errors import UserError
    from vila_ops.cli import comparison
    from vila_ops.comparing.disagreements import benchmarks_of, find_disagreements, parse_key
    from vila_ops.evaluations import Evaluations
    from vila_ops.samples import Samples

    chosen = _choose(store, texts)
    evaluations = Evaluations()
    opened = [evaluations.open(store, one.view, one.task) for one in chosen]
    both = benchmarks_of(opened[:2])
    keys = sorted(key for key in both if name in (key[0], f"{key[0]}@{key[1]}"))
    if not keys:
        known = [f"{benchmark}@{shots}" for benchmark, shots in both]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        fix = f"did you mean '{close[0]}'?" if close else f"they share: {', '.join(known)}"
        raise UserError(f"--disagreements {name}: the two runs were not both asked it; {fix}")
    found = find_disagreements(store, opened, parse_key(f"{keys[0][0]}@{keys[0][1]}"), rows=limit)
    if json:
        rows = [
            {
                "key": row.key,
                "type": row.kind,
                "references": list(row.references),
                "answers": [asdict(answer) for answer in row.answers],
            }
            for row in found.rows
        ]
        runs = [one.name for one in chosen]
        _print_json({"runs": runs, "count": found.count, "of": found.of, "rows": rows})
        return
    samples = Samples(store)
    questions = [_question(samples, chosen[0], row.task, row.record) for row in found.rows]
    comparison.print_disagreements(found, chosen, questions)
    _print_page([one.name for one in chosen], "#answers")


def _question(samples: Samples, one: Chosen, task: str, record: Mapping[str, Any]) -> str:
    """Return a question's words with `[image]` where it shows one; "" where they can't be had."""
    from vila_core.errors import VilaError

    try:
        found = samples.of_record(one.view.run_id, task, record)
    except VilaError:
        return ""
    parts = [part if isinstance(part, str) else "[image]" for part in found.question]
    return " ".join("".join(parts).split())


def _choose(store: Store, texts: Sequence[str]) -> list[Chosen]:
    """Return the runs; here one that can't be read is an error. Raises UserError."""
    from vila_core.errors import UserError
    from vila_ops.comparing.chosen import choose

    chosen, problems = choose(store, texts)
    if problems:
        raise UserError("; ".join(f"{one.run}: {one.problem}" for one in problems))
    if len(chosen) < 2:
        raise UserError("two or more different runs are needed")
    return chosen


def _print_page(names: Sequence[str], part: str = "") -> None:
    from urllib.parse import quote

    from vila_ops.cli.render import console
    from vila_ops.comparing.chosen import PAGE

    runs = "&".join(f"run={quote(name, safe=':')}" for name in names)
    text = f"in the dashboard (vila dashboard): {PAGE}?{runs}{part}"
    console().print(text, style="dim", soft_wrap=True, markup=False, highlight=False)


def _print_json(value: object) -> None:
    from vila_core.jsonio import dumps

    typer.echo(dumps(value, indent=2))
