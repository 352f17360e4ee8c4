"""Fetch a corpus's images from the command line, with a progress bar on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.config import apply_overrides, validate
from vila_core.data.download.run import Report, Task
from vila_core.data.download.run import download as fetch
from vila_core.data.download.settings import DownloadConfig
from vila_core.errors import UserError
from vila_ops.cli.render import console, duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from vila_core.data.download.engine import Progress

_LINE_SECONDS = 10.0
_FORMATS = ("coyo", "mmc4")


def download(
    corpus: Path,
    form: str,
    to: Path,
    *,
    retry: bool = False,
    ca_bundle: Path | None = None,
    allow_private: Sequence[str] = (),
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> Report:
    """Fetch the images of `corpus` into `to` and return what is there now.

    Raises UserError for a format or setting that isn't one, and what `run.download` raises.
    """
    if form not in _FORMATS:
        raise UserError(f"--format {form}: known are {', '.join(_FORMATS)}")
    given: dict[str, Any] = {"format": form, "path": str(corpus)}
    if ca_bundle is not None:
        given["ca_bundle"] = str(ca_bundle)
    if allow_private:
        given["allow_private"] = list(allow_private)
    config = validate(DownloadConfig, apply_overrides(given, overrides), where="vila data download")
    with _telling(quiet) as teller:
        return fetch(config, to, retry=retry, begin=teller.begin, tell=teller.tell)


def print_report(report: Report, to: Path) -> None:
    """Print how many images there are, and why others aren't."""
    from rich.table import Table

    out = console()
    total = max(report.addresses, 1)
    out.print(
        f"{report.images:,} images of {report.addresses:,} addresses "
        f"({report.images / total:.1%}), in {report.shards:,} shards: {to}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if report.broken_records:
        out.print(f"{report.broken_records:,} records of the corpus can't be read")
    if report.reasons:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("no image")
        table.add_column("addresses", justify="right")
        for reason, count in sorted(report.reasons.items(), key=lambda one: (-one[1], one[0])):
            table.add_row(reason, f"{count:,}")
        out.print(table)
    if report.may_heal:
        out.print(f"{report.may_heal:,} may have healed by now: --retry asks for them again")


@contextmanager
def _telling(quiet: bool) -> Iterator[_Teller]:
    out = console()
    if quiet or not out.is_terminal:
        yield _Teller(quiet)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(BarColumn(), TextColumn("{task.description}"), console=out) as bar:
        yield _Teller(quiet, bar, bar.add_task("looking at the corpus", total=None))


class _Teller:
    """Tells how far the download is: on a bar, or as a line now and then."""

    def __init__(self, quiet: bool, bar: Bar | None = None, shown: TaskID | None = None) -> None:
        self._quiet, self._bar, self._shown = quiet, bar, shown
        self._begun = self._told = time.monotonic()
        self._task = Task(None, 0, 0)

    def begin(self, task: Task) -> None:
        self._task = task
        self._begun = self._told = time.monotonic()

    def tell(self, progress: Progress) -> None:
        done, total = progress.rows, self._task.rows
        if total is None:  # MMC4: only its files are counted beforehand
            done, total = progress.shards, max(self._task.files - self._task.shards, 0)
        now = time.monotonic()
        seconds = max(now - self._begun, 1e-6)
        text = f"{progress.rows:,} addresses, {progress.images:,} images"
        text += (
            f", {progress.rows / seconds:,.0f}/s, {progress.num_bytes / seconds / 1e6:,.1f} MB/s"
        )
        if 0 < done < total:
            text += f", {duration(seconds * (total - done) / done)} left"
        if self._bar is not None and self._shown is not None:
            self._bar.update(self._shown, description=text, completed=done, total=total or None)
        elif not self._quiet and now - self._told > _LINE_SECONDS:
            self._told = now
            print(text, file=sys.stderr, flush=True)
