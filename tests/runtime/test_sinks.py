"""W&B takes the same numbers, in the background, and can't fail a task."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.runtime.context import Context, Tracking
from components.runtime.sinks import WandbSink
from tests.runtime.conftest import Tasks


def read_wandb(log: Path) -> list[dict]:
    wandb = Path(sys.executable).parent / "wandb"
    command = [str(wandb), "leet", "inspect", "--json", str(log)]
    text = subprocess.check_output(command, text=True, cwd=log.parent)
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_wandb_holds_the_same_numbers(tasks: Tasks) -> None:
    done = tasks.run(config={"steps": 5, "text": "abc"}, context={"tracking": "offline"})
    assert done.code == 0, done.output
    (attempt,) = tasks.attempts()
    folder = tasks.store.local_path(attempt.prefix)
    (log,) = folder.rglob("*.wandb")
    text = json.dumps(read_wandb(log))
    for row in attempt.metrics(tasks.store):
        assert str(row["loss"]) in text
    assert '"length' in text
    assert attempt.started["key"] in text
    assert attempt.started["key_parts"]["code"]["digest"] in text
    assert "W&B" not in done.output


@pytest.mark.slow
def test_a_failing_wandb_says_so_once(tasks: Tasks) -> None:
    tasks.environment.update(WANDB_API_KEY="not-a-key", WANDB_BASE_URL="http://127.0.0.1:9")
    tasks.environment["WANDB_INIT_TIMEOUT"] = "2"
    tasks.environment["WANDB_MODE"] = "online"
    done = tasks.run(context={"tracking": "online"})
    assert done.code == 0, done.output
    assert done.output.count("W&B is not used for this task") == 1


def test_logging_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While W&B is still being imported (here: a module that takes a second), rows only queue."""
    (tmp_path / "wandb.py").write_text("import time\ntime.sleep(1)\nraise ImportError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    said: list[str] = []
    sink = WandbSink(Tracking(), run_id="r", task="t", config={}, folder=tmp_path, warn=said.append)
    began = time.monotonic()
    for step in range(1000):
        sink.log(step, {"loss": float(step)})
    assert time.monotonic() - began < 0.5
    sink.finish({}, 0)
    assert said == ["W&B is not used for this task: broken (metrics.jsonl is complete)"]


def test_context_takes_a_mode_or_a_mapping() -> None:
    head = '{"store": "s", "run_id": "r", "driver_pid": 1, "recipe": "x", "tracking": '
    assert Context.parse(head + '"online"}').tracking.wandb == "online"
    assert Context.parse(head + '{"wandb": "disabled"}}').tracking.wandb == "disabled"
