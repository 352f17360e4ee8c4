"""No orphans: when the driver is gone, the step ends itself and everything that it started."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import psutil

SECONDS = 0.5


def watch_driver(pid: int, gone: Callable[[], None]) -> threading.Event:
    """Watch process `pid` from a thread; when it ends, call `gone` and kill this process group.

    Set the returned event to end the watch. A group that is shared with the driver is left alone
    (its other members are not ours): then this process and its children are killed.
    """
    end = threading.Event()
    driver = _process(pid)  # taken now: a later process with the same pid is another one
    shared = driver is not None and os.getpgid(pid) == os.getpgrp()

    def watch() -> None:
        while driver is not None and _runs(driver):
            if end.wait(SECONDS):
                return
        if end.is_set():
            return
        last_words = threading.Thread(target=gone, daemon=True)
        last_words.start()
        last_words.join(1.0)  # whatever the store does, nothing outlives the driver by 2 s
        _kill_all(shared)

    threading.Thread(target=watch, daemon=True, name="vila-driver-watch").start()
    return end


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill_all(shared_group: bool) -> None:
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    if shared_group:
        os.kill(os.getpid(), signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)
