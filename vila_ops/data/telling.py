"""How far something is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 10.0


@contextmanager
def progress(name: str, unit: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield what is to be told how many are done, and of how many."""
    from vila_ops.cli import render

    console = render.console()
    if quiet:
        yield lambda done, of: None
        return
    if not console.is_terminal:
        last = [time.monotonic()]

        def line(done: int, of: int) -> None:
            if time.monotonic() - last[0] > _LINE_SECONDS:
                last[0] = time.monotonic()
                print(f"{name}: {done:,} of {of:,} {unit}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
