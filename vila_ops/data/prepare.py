"""Prepare corpora without a run: into a plain folder, with a progress bar on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.partition import parse_partition
from vila_core.config import apply_overrides, read_yaml, validate
from vila_core.errors import UserError
from vila_core.jsonio import read_object
from vila_core.stages import merge as merging
from vila_core.stages import prepare as stage
from vila_core.stages._parts import PART, read_parts
from vila_core.types import Reporter
from vila_ops.cli.render import duration
from vila_ops.recipes import find_recipe

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_UNFINISHED = ".preparing"
_LINE_SECONDS = 10.0


def prepare(
    config: str,
    to: Path,
    overrides: Sequence[str] = (),
    *,
    part: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the stage into the folder `to` and return its report, or `part.json` of a part (`0/8`).

    An attempt that is not finished lies in `TO.preparing`, and is gone on with; `to` appears whole.
    Raises UserError for a config that isn't one, when `to` exists, and whatever the stage raises.
    """
    path = find_recipe(config)
    values = read_yaml(path)
    values = values if "prepare" in values else {"prepare": values}
    section = apply_overrides(values, overrides)["prepare"]
    if part is not None and isinstance(section, Mapping):
        section = {**section, "partition": parse_partition(part)}
    if not isinstance(section, Mapping):
        raise UserError(f"{path}: prepare: a mapping (key: value) is needed, found {section!r}.")
    checked = validate(stage.Config, section, where=str(path), path="prepare")

    def run(work: Path, reporter: Reporter) -> Path:
        return stage.run(checked, {}, work, reporter).outputs["data"]

    written(to, run, quiet=quiet)
    return read_object(to / ("report.json" if checked.partition is None else PART))


def merge(to: Path, parts: Sequence[Path], *, quiet: bool = False) -> dict[str, Any]:
    """Join parts into the folder `to` and return its report, as `prepare` does for all at once.

    Raises UserError unless they are all parts of one prepare, and when `to` exists.
    """
    inputs = {f"part-{number:05d}": part for number, part in enumerate(parts)}

    def run(work: Path, reporter: Reporter) -> Path:
        return merging.run(merging.Config(), inputs, work, reporter).outputs["data"]

    read_parts(parts)  # what is wrong with them is told before a folder is made
    written(to, run, quiet=quiet)
    return read_object(to / "report.json")


def written(to: Path, run: Callable[[Path, Reporter], Path], *, quiet: bool) -> None:
    """Let `run` work in a folder beside `to`; rename what it made.

    The folder is kept if that fails after some work: a second call goes on with it.
    """
    if to.exists():
        raise UserError(f"{to}: exists already.\n  fix: name a new folder, or remove this one.")
    work = to.with_name(f"{to.name}{_UNFINISHED}")
    work.mkdir(parents=True, exist_ok=True)
    with _telling(quiet) as reporter:
        try:
            made = run(work, reporter)
        except UserError:
            if _is_bare(work):  # a mistake in the config: there is nothing to go on with
                shutil.rmtree(work)
            raise
    made.rename(to)
    work.rmdir()


def _is_bare(work: Path) -> bool:
    """Return whether no record was looked at yet: beside the settings there is the tokenizer."""
    files = [path.relative_to(work).parts for path in work.rglob("*") if path.is_file()]
    return all(parts[-1] == "settings" or "tokenizer" in parts for parts in files)


def print_part(part: Mapping[str, Any], to: Path) -> None:
    """Print what a part holds, and what is to come."""
    for name, row in part["corpora"].items():
        totals = row["totals"]
        print(
            f"{name}: {totals['records']:,} records, {totals['samples']:,} samples, "
            f"{totals['set_aside']:,} set aside"
        )
    print(f"part {part['index']} of {part['of']} (0 to {part['of'] - 1}): {to}")
    print("join all parts: vila data merge OUT PART…")


def print_report(report: Mapping[str, Any], to: Path) -> None:
    """Print a row per corpus, and what was set aside."""
    from rich.table import Table

    from vila_ops.cli import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("corpus")
    for name in ("read", "kept", "set aside", "not sampled", "images", "text tokens"):
        table.add_column(name, justify="right")
    for name, row in report["corpora"].items():
        aside = sum(row["set_aside"].values())
        values = (row["read"], row["kept"], aside, row["not_sampled"], row["images"])
        table.add_row(name, *(f"{value:,}" for value in (*values, row["text_tokens"])))
    console = render.console()
    console.print(table)
    for name, row in report["corpora"].items():
        for reason, count in row["set_aside"].items():
            first = row["examples"][reason][0]
            console.print(
                f"{name}: {count:,} set aside, {reason}; first {first['where']}: {first['detail']}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    console.print(f"prepared: {to}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _telling(quiet: bool) -> Iterator[_Teller]:
    from vila_ops.cli import render

    console = render.console()
    if quiet or not console.is_terminal:
        yield _Teller(quiet)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}")
    with Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console) as bar:
        yield _Teller(quiet, bar, bar.add_task("starting"))


class _Teller:
    """Tells how far the stage is: on a bar, or as a line now and then."""

    def __init__(self, quiet: bool, bar: Progress | None = None, task: TaskID | None = None):
        self._quiet, self._bar, self._task = quiet, bar, task
        self._begun = self._told = time.monotonic()

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        records, of = int(values.get("records", 0)), int(values.get("of", 0))
        text = f"corpus {min(done + 1, total)} of {total}: {records:,}"
        text += f" of {of:,} records" if of else " records"
        now = time.monotonic()
        if records == 0:
            self._begun = now  # a corpus begins
        elif now > self._begun:
            speed = records / (now - self._begun)
            text += f", {speed:,.0f}/s"
            if of > records:
                text += f", {duration((of - records) / speed)} left"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif not self._quiet and now - self._told > _LINE_SECONDS:
            self._told = now
            print(text, file=sys.stderr, flush=True)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        raise AssertionError("prepare has no steps")

    def info(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def attach(self, path: Path, name: str) -> None:
        raise AssertionError("prepare keeps no files beside its log")
