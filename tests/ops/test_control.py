"""Stopping, killing and resuming runs: nothing is orphaned, nothing is lost."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from test_run import digests, show, statuses
from toy_vila import Vila

pytestmark = pytest.mark.slow

SLOW = ("--set", "grow.seconds_per_step=0.4", "--set", "grow.steps=6")


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def stepped(vila: Vila) -> bool:
    """Whether `grow` has made its first step, and noted that."""
    rows = vila.store.glob("runs/*/tasks/grow/001/metrics.jsonl")
    return any(path.stat().st_size for path in rows)


def steps_of(vila: Vila) -> list[psutil.Process]:
    """All processes of this test's store, drivers and steps."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("VILA_STORE") == str(vila.store)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.fixture
def reference(vila: Vila, recipe: Path, tmp_path: Path) -> dict[str, str]:
    """What an uninterrupted run gives."""
    other = tmp_path / "reference"
    vila("run", recipe, "--store", other, "--runner", "inline", *SLOW)
    return digests(json.loads(vila("show", "last", "--json", "--store", other)))


def test_ctrl_c_stops_everything_and_resume_continues(
    vila: Vila, recipe: Path, reference: dict[str, str]
):
    process = vila.start("run", recipe, *SLOW)
    until(lambda: stepped(vila))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert "vila resume" in out
    assert not steps_of(vila)
    assert statuses(show(vila))["grow"] == "stopped"
    assert show(vila)["status"] == "stopped"

    vila("resume", "last")
    resumed = show(vila)
    assert resumed["status"] == "succeeded"
    assert statuses(resumed)["source"] == "succeeded", "its result of this run stays as recorded"
    assert digests(resumed) == reference
    assert "starting at step 0" not in vila("logs", "last", "grow")
    assert "attempt 1 was stopped" in vila("why", "last", "grow")


def test_a_killed_driver_leaves_no_orphan_and_resume_continues(
    vila: Vila, recipe: Path, reference: dict[str, str]
):
    process = vila.start("run", recipe, *SLOW)
    until(lambda: stepped(vila))
    process.kill()
    process.communicate()
    until(lambda: not steps_of(vila), seconds=3)
    assert show(vila)["status"] == "interrupted"
    vila("resume", "last")
    assert digests(show(vila)) == reference
    assert "starting at step 0" not in vila("logs", "last", "grow")


def test_a_killed_task_fails_the_run_and_resume_continues(
    vila: Vila, recipe: Path, reference: dict[str, str]
):
    process = vila.start("run", recipe, *SLOW)
    until(lambda: stepped(vila))
    started = next(vila.store.glob("runs/*/tasks/grow/001/started.json"))
    os.kill(json.loads(started.read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1, out + err
    assert "grow: the process was killed by signal 9" in out
    assert not steps_of(vila)
    vila("resume", "last")
    assert digests(show(vila)) == reference


def test_a_run_in_the_background_is_followed_and_stopped(vila: Vila, recipe: Path):
    run_id = vila("run", recipe, "--detach", *SLOW, "--set", "grow.steps=60").strip()
    until(lambda: stepped(vila))
    assert show(vila, run_id)["status"] == "running"
    assert "is running" in vila("resume", run_id, code=2)
    follower = vila.start("logs", run_id, "grow", "-f")
    assert "stopped" in vila("stop", run_id)
    followed, _ = follower.communicate(timeout=10)
    assert "Stopped" in followed
    until(lambda: not steps_of(vila), seconds=3)
    assert show(vila, run_id)["status"] == "stopped"
    assert "is not running" in vila("stop", run_id, code=2)


def test_an_inline_run_stops_on_sigterm_and_resumes(
    vila: Vila, recipe: Path, reference: dict[str, str]
):
    process = vila.start("run", recipe, "--runner", "inline", *SLOW)
    until(lambda: stepped(vila))
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert statuses(show(vila))["grow"] == "stopped"
    vila("resume", "last")
    assert digests(show(vila)) == reference


def test_a_failed_task_stops_the_independent_one(vila: Vila, recipe: Path):
    recipe.write_text(
        recipe.read_text().replace("grow_twin: {steps: 2}", "grow_twin: {broken: true}")
    )
    process = vila.start("run", recipe, "--set", "grow.seconds_per_step=30")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1, out + err
    found = statuses(show(vila))
    assert (found["grow-twin"], found["grow"]) == ("failed", "stopped")
    assert not steps_of(vila)
