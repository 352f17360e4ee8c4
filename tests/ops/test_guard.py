"""The first process of a container, here as a plain process: it needs no engine to be tested."""

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vila_ops.driver import guard


class Guarded:
    """A driver that holds its lock, and the guard of one command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = (folder / "driver.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def start(self, *command: str) -> subprocess.Popen[str]:
        arguments = [guard.__file__, self.lock.name, str(self.folder), *command]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> Any:
        return json.loads((self.folder / guard.ENDED).read_text())


@pytest.fixture
def guarded(tmp_path: Path):
    made = Guarded(tmp_path)
    yield made
    made.lock.close()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill $$", 143)]
)
def test_it_ends_with_the_exit_code_of_its_command_and_writes_it_down(
    guarded: Guarded, script: str, code: int
):
    process = guarded.start("sh", "-c", f"echo told; {script}")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "told\n", "")
    assert guarded.ended() == {"exit_code": code, "oom": False}


def test_it_passes_a_signal_on_to_all_that_the_command_started(guarded: Guarded):
    # A shell's child that is not a sleeper yet would take the signal for the shell, and lose it.
    begun = 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    script = f"trap 'echo heard; exit 3' TERM; sleep 60 & {begun}; echo ready; wait"
    process = guarded.start("sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)  # not before the sleeper's end of the pipe is closed
    assert (process.returncode, out) == (3, "heard\n")


def test_it_ends_the_command_when_the_driver_has_gone(guarded: Guarded):
    process = guarded.start("sh", "-c", "echo ready; exec sleep 60")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    guarded.lock.close()  # as the kernel does for a driver that is killed
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert "the driver is gone" in err
    assert guarded.ended()["exit_code"] == 143
    assert time.monotonic() - began < 20


def test_a_signal_that_came_before_it_could_listen_is_heeded(guarded: Guarded):
    (guarded.folder / guard.STOP).touch()
    process = guarded.start("sh", "-c", "echo started")
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert guarded.ended()["exit_code"] == 130
