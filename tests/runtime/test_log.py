"""A task's log takes what children print, and waits for none that lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, subprocess, sys, time
from pathlib import Path
from components.runtime import log

log._DRAIN_SECONDS = 600.0
place = Path(sys.argv[1])
taken = log.TaskLog(place, capture=True)
child = "import time; print('from a child', flush=True); time.sleep({lives})"
child = subprocess.Popen([sys.executable, "-c", child])
while "from a child" not in place.read_text():
    time.sleep(0.01)
os.write(1, b"from C\\n")
print("the key is abc-secret-abc")
print("no end of line", end="")
if {lives} == 0:
    child.wait()
taken.close()
print("lives" if child.poll() is None else "gone")
child.kill()
child.wait()
"""


def run(place: Path, lives: int) -> str:
    command = [sys.executable, "-c", SCRIPT.format(lives=lives), str(place)]
    environment = {"WANDB_API_KEY": "abc-secret-abc", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True, timeout=300
    )
    assert done.stdout.startswith(place.read_text())
    return done.stdout.removeprefix(place.read_text()).strip()


def test_nobody_waits_for_a_child_that_lives_on(tmp_path: Path) -> None:
    place = tmp_path / "log.txt"
    assert run(place, 600) == "lives"
    lines = place.read_text().splitlines()
    assert lines == ["from a child", "from C", "the key is ***", "no end of line"]


def test_all_that_was_printed_is_there_once_children_are_gone(tmp_path: Path) -> None:
    place = tmp_path / "log.txt"
    assert run(place, 0) == "gone"
    assert place.read_text().splitlines()[-1] == "no end of line"
