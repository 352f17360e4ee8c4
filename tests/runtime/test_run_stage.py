"""`run_stage` in real processes: success, cache, every kind of failure, signals, orphans."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from components.runtime import TaskFailed, answer_from_cache
from components.runtime.record import RunRecord, create_run
from tests import s3_server
from tests.runtime import toy_stage, toy_task
from tests.runtime.conftest import ROOT, Tasks
from vila_core.store import ArtifactRef, fetch, open_store

STAGE = "tests.runtime.toy_stage"


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def work(tasks: Tasks) -> list[Path]:
    return [path for path in (tasks.store.local_path("work")).glob("*") if path.is_dir()]


def test_success_is_published_and_recorded(tasks: Tasks) -> None:
    done = tasks.run(config={"steps": 3})
    assert done.code == 0, done.output
    uri, sha256, metrics = done.result
    assert (fetch(tasks.store, ArtifactRef(uri, sha256)) / "text.txt").read_text() == "hello"
    assert metrics == {"length": 5.0}
    (attempt,) = tasks.attempts()
    assert attempt.finished is not None
    assert attempt.finished["status"] == "succeeded"
    assert attempt.finished["exit_code"] == 0
    assert attempt.finished["outputs"] == {"result": {"uri": uri, "sha256": sha256}}
    assert attempt.finished["metrics"] == {"length": 5.0, "nan": None}
    assert attempt.progress["done"] == 3
    assert [row["loss"] for row in attempt.metrics(tasks.store)] == [1, 1 / 2, 1 / 3]
    assert attempt.started["key_parts"]["config"]["steps"] == 3
    assert "tests/runtime/toy_stage.py" in attempt.started["key_parts"]["code"]["files"]
    assert "first step 0" in attempt.log(tasks.store)
    assert work(tasks) == []


def test_a_file_is_kept_beside_the_log_even_when_the_task_fails(tasks: Tasks) -> None:
    assert tasks.run(config={"attach": "kept/state", "steps": 2, "fail": "crash"}).code == 1
    (attempt,) = tasks.attempts()
    assert tasks.store.read(f"{attempt.prefix}/kept/state") == b"2"
    done = tasks.run(task="nothing", config={"attach": "state", "steps": 0})  # there is no file
    assert done.code == 0, done.output
    assert "state is not in the record: " in tasks.attempts("nothing")[0].log(tasks.store)


def test_the_same_again_is_cached(tasks: Tasks) -> None:
    first = tasks.run()
    again = tasks.run(task="twin")
    assert again.result == first.result
    (attempt,) = tasks.attempts("twin")
    assert attempt.finished is not None
    assert attempt.finished["status"] == "cached"
    assert attempt.finished["cached_from"] == {"run_id": "r1", "task": "toy"}
    assert "cached: the result of task toy of run r1" in attempt.log(tasks.store)


def test_another_config_or_input_is_computed(tasks: Tasks) -> None:
    uri, sha256, _ = tasks.run().result
    tasks.run(task="config", config={"text": "bye"})
    tasks.run(task="input", inputs={"base": [uri, sha256]})
    for task in ("config", "input"):
        (attempt,) = tasks.attempts(task)
        assert attempt.finished is not None
        assert attempt.finished["status"] == "succeeded"
    ref = attempt.finished["outputs"]["result"]
    assert (fetch(tasks.store, ArtifactRef(**ref)) / "text.txt").read_text() == "hellohello"


def test_a_damaged_result_is_computed_again(tasks: Tasks) -> None:
    uri, sha256, _ = tasks.run().result
    file = fetch(tasks.store, ArtifactRef(uri, sha256)) / "text.txt"
    file.chmod(0o644)
    file.write_text("hallo")
    again = tasks.run()
    assert again.result[:2] == (uri, sha256)
    assert tasks.attempts()[1].finished["status"] == "succeeded"
    assert file.read_text() == "hello"


def test_the_driver_asks_with_the_same_key(tasks: Tasks) -> None:
    config = toy_stage.Config(text="x")
    assert answer_from_cache(tasks.store, "r1", "early", STAGE, config, {}) is None
    assert "early" not in RunRecord.load(tasks.store, "r1").tasks
    _, sha256, _ = tasks.run(config={"text": "x"}).result
    entry = answer_from_cache(tasks.store, "r1", "late", STAGE, config, {})
    assert entry is not None
    assert entry.outputs["result"].sha256 == sha256
    assert RunRecord.load(tasks.store, "r1").task_status("late") == "cached"


@pytest.mark.parametrize(
    ("how", "code", "kind", "message", "traceback"),
    [
        ("user", 2, "UserError", "corpus.jsonl:3: the line is not JSON", False),
        ("crash", 1, "ValueError", "the toy broke", True),
        ("memory", 1, "OutOfMemory", "out of memory. Fix: use smaller packs", False),
        ("torch-memory", 1, "OutOfMemory", "can't allocate memory: you tried", False),
        ("exit", 1, "SystemExit", "3", True),
        ("wrong-output", 1, "FileExistsError", "result", True),
    ],
)
def test_failures(
    tasks: Tasks, how: str, code: int, kind: str, message: str, traceback: bool
) -> None:
    done = tasks.run(config={"fail": how})
    assert done.code == code, done.output
    (attempt,) = tasks.attempts()
    assert attempt.finished is not None
    assert attempt.finished["status"] == "failed"
    assert attempt.finished["exit_code"] == code
    assert attempt.finished["error"]["kind"] == kind
    assert message in attempt.finished["error"]["message"]
    log = attempt.log(tasks.store)
    assert f"error: {kind}: " in log
    assert ("Traceback" in log) == traceback
    assert "Traceback" not in done.output
    assert list(tasks.store.list("cache/")) == []
    assert list(tasks.store.list("artifacts/")) == []


def test_a_bad_config_is_the_users_mistake(tasks: Tasks) -> None:
    done = tasks.run(config={"stepz": 3})
    assert done.code == 2
    assert "task toy: stepz: unknown key; did you mean 'steps'?" in done.output
    assert tasks.attempts()[0].finished["status"] == "failed"


def test_a_disk_that_is_full(tasks: Tasks, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        full = Tasks(open_store(disk))
        create_run(full.store, {"run_id": "r1"})
        done = full.run(config={"fail": "big-file"})
        assert done.code == 1
        assert "error: DiskFull: " in done.output
        assert f"{disk}/work/" in done.output
        assert "free some space" in done.output
        assert "Traceback" not in done.output
        (attempt,) = full.attempts()  # written although the disk was full
        assert attempt.finished is not None
        assert attempt.finished["error"]["kind"] == "DiskFull"
        assert "error: DiskFull" in attempt.log(full.store)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_size_limit(tasks: Tasks) -> None:
    done = tasks.run(config={"fail": "big-file"}, file_limit=1 << 20)
    assert done.code == 1
    assert tasks.attempts()[0].finished["error"]["kind"] == "OSError"


def test_a_store_that_cannot_be_written(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tasks.run(context={"store": str(tmp_path / "file" / "store")})
    assert done.code == 1
    assert "error: StoreError: " in done.output
    assert "choose another store" in done.output
    assert "Traceback" not in done.output


def test_secrets_stay_out_of_log_record_and_console(tasks: Tasks) -> None:
    secret = "s3cr3t-value-0123"
    tasks.environment["TOY_API_KEY"] = secret
    done = tasks.run(config={"fail": "secret"})
    assert done.code == 1
    assert "the key is ***" in done.output
    assert "from a child: ***" in done.output
    for path in tasks.store.local_path("").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_a_crash_in_c_leaves_its_stack_in_the_log(tasks: Tasks) -> None:
    done = tasks.run(config={"fail": "segfault"})
    assert done.code == -signal.SIGSEGV
    (attempt,) = tasks.attempts()
    assert attempt.finished is None
    log = attempt.log(tasks.store)
    assert "last words" in log
    assert "Segmentation fault" in log
    assert "toy_stage.py" in log


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_task(tasks: Tasks, how: signal.Signals) -> None:
    process = tasks.start(config={"steps": 100, "seconds": 0.2})
    until(lambda: work(tasks) and (work(tasks)[0] / "state").exists())
    began = time.monotonic()
    process.send_signal(how)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert time.monotonic() - began < 3
    (attempt,) = tasks.attempts()
    assert attempt.finished is not None
    assert attempt.finished["status"] == "stopped"
    assert f"stopped by {how.name}" in output
    assert "Traceback" not in output


def test_a_killed_task_continues_where_it_was(tasks: Tasks) -> None:
    config = {"steps": 8, "seconds": 0.1}
    process = tasks.start(config=config)
    until(lambda: work(tasks) and (work(tasks)[0] / "state").exists())
    process.kill()
    process.communicate()
    done = tasks.run(config=config)
    assert done.code == 0, done.output
    assert "first step 0" not in done.output
    first, second = tasks.attempts()
    assert first.finished is None
    assert second.finished is not None
    rows = RunRecord.load(tasks.store, "r1").metrics(tasks.store, "toy")
    assert [row["step"] for row in rows] == list(range(8))
    assert work(tasks) == []


def test_two_at_once_compute_once(tasks: Tasks) -> None:
    config = {"steps": 5, "seconds": 0.3}
    first = tasks.start(task="first", config=config)
    until(lambda: work(tasks) and (work(tasks)[0] / "state").exists())
    second = tasks.run(task="second", config=config)
    first.communicate()
    assert f"waiting: process {first.pid} is computing the same task" in second.output
    statuses = {name: tasks.attempts(name)[0].finished["status"] for name in ("first", "second")}
    assert statuses == {"first": "succeeded", "second": "cached"}
    assert list(tasks.store.local_path("work").iterdir()) == []


def test_no_orphans_when_the_driver_is_killed(tasks: Tasks, tmp_path: Path) -> None:
    command = tasks.command(
        {
            "config": {"steps": 1000, "seconds": 0.1, "child": True},
            "context": {"driver_pid": "parent"},
        }
    )
    code = (
        "import json, subprocess, sys, time\n"
        "step = subprocess.Popen(json.loads(sys.argv[1]), start_new_session=True)\n"
        "print(step.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(command)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert driver.stdout is not None
    step = psutil.Process(int(driver.stdout.readline()))
    until(lambda: work(tasks) and (work(tasks)[0] / "state").exists())
    child = psutil.Process(int((work(tasks)[0] / "child.pid").read_text()))
    driver.kill()
    driver.wait()
    until(lambda: not _lives(step) and not _lives(child), seconds=2.5)
    driver.stdout.close()
    (attempt,) = tasks.attempts()
    assert attempt.finished is not None
    assert attempt.finished["error"]["kind"] == "DriverGone"
    assert "is gone; continue with 'vila resume'" in attempt.log(tasks.store)
    assert (work(tasks)[0] / "state").exists()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def inline(tasks: Tasks, task: str = "toy", **config: object) -> toy_task.Artifact:
    artifact = toy_task.Artifact()
    context = {"store": tasks.store.uri, "run_id": "r1", "driver_pid": os.getpid()}
    toy_task.run_stage(
        stage=STAGE,
        context=json.dumps({**context, "tracking": {"wandb": "disabled"}}),
        task=task,
        config=json.dumps(config),
        inputs={},
        outputs={"result": artifact},
    )
    return artifact


def test_inline_gives_the_same_artifact(tasks: Tasks, tmp_path: Path) -> None:
    artifact = inline(tasks)
    other = Tasks(open_store(tmp_path / "other"))
    assert other.run().result[1] == artifact.metadata["sha256"]
    assert "first step 0" in tasks.attempts()[0].log(tasks.store)


def test_inline_raises_and_records(tasks: Tasks, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TaskFailed, match=r"corpus\.jsonl:3") as caught:
        inline(tasks, fail="user")
    assert (caught.value.task, caught.value.exit_code) == ("toy", 2)
    assert tasks.attempts()[0].finished["exit_code"] == 2
    assert capfd.readouterr() == ("", "")


def test_inline_passes_an_interrupt_on(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy_stage, "_fail", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        inline(tasks)
    assert tasks.attempts()[0].finished["status"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def test_on_s3(tasks: Tasks, s3_environment: dict[str, str], tmp_path: Path) -> None:
    environment = {**s3_environment, "VILA_CACHE": str(tmp_path / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        remote = Tasks(open_store(f"s3://{s3_server.BUCKET}/{tmp_path.name}"))
        remote.store.write("runs/r1/run.json", b"{}")
        first = remote.run(config={"steps": 2, "attach": "kept/state"})
        assert first.code == 0, first.output
        uri, sha256, _ = first.result
        assert uri == f"{remote.store.uri}/artifacts/{sha256}"
        second = remote.run(task="next", inputs={"base": [uri, sha256]})
        assert second.code == 0, second.output
        same = {"steps": 2, "attach": "kept/state"}
        assert remote.run(config=same, task="again").result == first.result
        (attempt,) = remote.attempts()
        assert remote.store.read(f"{attempt.prefix}/kept/state") == b"2"
        assert "first step 0" in attempt.log(remote.store)
        assert [row["step"] for row in attempt.metrics(remote.store)] == [0, 1]
        assert remote.attempts("again")[0].finished["status"] == "cached"
        text = (fetch(remote.store, ArtifactRef(*second.result[:2])) / "text.txt").read_text()
        assert text == "hellohello"
