"""SIGTERM and SIGINT as one orderly stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from components.runtime.failure import Stopped

_BOTH = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def stoppable(wanted: bool = True) -> Iterator[None]:
    """Turn the first SIGTERM or SIGINT into Stopped; put the old handlers back at the end."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        ignore_signals(True)
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in _BOTH}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(wanted: bool = True) -> None:
    """Let nothing interrupt what is left to do."""
    if wanted and threading.current_thread() is threading.main_thread():
        for number in _BOTH:
            signal.signal(number, signal.SIG_IGN)
