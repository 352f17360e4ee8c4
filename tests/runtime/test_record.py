"""The run record: who drives, how it ended, and what readers make of crashes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.runtime.record import (
    AttemptWriter,
    RunRecord,
    begin_driver,
    close_attempt,
    create_run,
    end_run,
    identity,
    last_attempt,
)
from components.runtime.secrets import mask
from vila_core.errors import AlreadyExists, NotFound, UserError
from vila_core.store import Store, open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "store")
    create_run(store, {"run_id": "r1", "created_at": "2026-01-01T00:00:00+00:00"})
    return store


def drive_elsewhere(store: Store, then: str) -> subprocess.Popen[str]:
    code = (
        "import sys, time\n"
        "from components.runtime.record import begin_driver\n"
        "from vila_core.store import open_store\n"
        f"begin_driver(open_store({store.uri!r}), 'r1')\n"
        "print('driving', flush=True)\n" + then
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "driving\n"
    return process


def test_statuses(store: Store) -> None:
    assert RunRecord.load(store, "r1").status == "interrupted"  # created long ago, never driven
    begin_driver(store, "r1")
    assert RunRecord.load(store, "r1").status == "running"
    end_run(store, "r1", "failed", "task sft failed")
    record = RunRecord.load(store, "r1")
    assert record.status == "failed"
    assert record.end is not None
    assert record.end["error"] == "task sft failed"
    begin_driver(store, "r1")  # resumed
    assert RunRecord.load(store, "r1").status == "running"


def test_a_driver_that_died_left_the_run_interrupted(store: Store) -> None:
    driver = drive_elsewhere(store, "time.sleep(100)")
    assert RunRecord.load(store, "r1").status == "running"
    with pytest.raises(UserError, match=f"driven already, by process {driver.pid}.*vila stop r1"):
        begin_driver(store, "r1")
    driver.kill()
    driver.communicate()
    assert RunRecord.load(store, "r1").status == "interrupted"
    begin_driver(store, "r1")
    assert RunRecord.load(store, "r1").status == "running"


def test_a_pid_that_is_used_again_is_not_the_driver(store: Store) -> None:
    value = {**identity(), "process_started": time.time() - 10_000}
    store.write("runs/r1/driver.json", json.dumps(value).encode())
    assert RunRecord.load(store, "r1").status == "interrupted"


def test_a_driver_on_another_host_is_judged_by_its_tasks(store: Store) -> None:
    value = {
        **identity(),
        "host": platform.node() + "-x",
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    store.write("runs/r1/driver.json", json.dumps(value).encode())
    assert RunRecord.load(store, "r1").status == "interrupted"
    AttemptWriter(store, "r1", "sft", {}).progress({"done": 1})
    record = RunRecord.load(store, "r1")
    assert (record.status, record.task_status("sft")) == ("running", "running")


def test_a_run_exists_once(store: Store) -> None:
    with pytest.raises(NotFound, match="no run 'r9'"):
        RunRecord.load(store, "r9")
    with pytest.raises(AlreadyExists):
        create_run(store, {"run_id": "r1"})


def test_attempts_count_up_and_end_once(store: Store) -> None:
    first = AttemptWriter(store, "r1", "sft", {"key": "k"})
    assert first.finish({"status": "succeeded", "exit_code": 0})
    assert not first.finish({"status": "failed", "exit_code": 1})
    second = AttemptWriter(store, "r1", "sft", {"key": "k"})
    assert (first.number, second.number, last_attempt(store, "r1", "sft")) == (1, 2, 2)
    record = RunRecord.load(store, "r1")
    assert [attempt.number for attempt in record.tasks["sft"]] == [1, 2]
    assert record.tasks["sft"][0].finished["status"] == "succeeded"
    assert record.task_status("sft") == "running"  # no driver is known: judged by its age
    assert record.task_status("align") == "waiting"


def test_the_driver_closes_what_was_killed(store: Store) -> None:
    AttemptWriter(store, "r1", "sft", {})
    close_attempt(store, "r1", "sft", after=0, exit_code=137, message="killed by SIGKILL")
    close_attempt(store, "r1", "sft", after=0, exit_code=1, message="too late")
    (attempt,) = RunRecord.load(store, "r1").tasks["sft"]
    assert attempt.finished is not None
    assert attempt.finished["error"]["message"] == "killed by SIGKILL"
    assert attempt.finished["exit_code"] == 137


def test_the_driver_records_what_never_began(store: Store) -> None:
    AttemptWriter(store, "r1", "sft", {}).finish({"status": "failed"})
    close_attempt(
        store,
        "r1",
        "sft",
        after=1,
        exit_code=1,
        message="no module",
        log="ImportError: no module\n",
    )
    attempt = RunRecord.load(store, "r1").tasks["sft"][1]
    assert attempt.log(store) == "ImportError: no module\n"
    assert attempt.finished is not None
    assert attempt.finished["status"] == "failed"


def test_metrics_of_all_attempts_by_step(store: Store) -> None:
    for steps in ([0, 1, 2], [2, 3]):
        writer = AttemptWriter(store, "r1", "sft", {})
        rows = [json.dumps({"step": step, "by": writer.number}) + "\n" for step in steps]
        (writer.folder / "metrics.jsonl").write_text("".join(rows) + '{"step": 9, "cut o')
    found = RunRecord.load(store, "r1").metrics(store, "sft")
    assert [(row["step"], row["by"]) for row in found] == [(0, 1), (1, 1), (2, 2), (3, 2)]


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "abcdef0123456789")
    config = {
        "api_key": "x",
        "password": "y",
        "image_token": "<image>",
        "list": ["abcdef0123456789"],
    }
    masked = {"api_key": "***", "password": "***", "image_token": "<image>", "list": ["***"]}
    assert mask(config) == masked
    create_run(store, {"run_id": "r2", "config": config, "environment": dict(os.environ)})
    assert b"abcdef0123456789" not in store.read("runs/r2/run.json")
