"""A stage that asks for two processes, run for real: torchrun, gloo, one machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.train import test_train_stages as stages
from tests.train.slow_mirror import SlowMirror
from tests.train.tiny import Recorder
from vila_core.config import validate
from vila_core.errors import UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.stages import align
from vila_core.train.checkpoint import problem_of
from vila_core.train.config import TrainConfig

parts = stages.parts  # the fixture
ROOT = Path(__file__).parents[2]
TWO = {"engine": "deepspeed", "packs_per_step": 2, "processes": 2}


def ranks_of(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if "rank" in p.cmdline() and "vila_core.train.ranks" in p.cmdline()]


class Watching(Recorder):
    """Does something at one step; keeps the ranks' processes."""

    def __init__(self, at: int, act: Any) -> None:
        super().__init__()
        self.at, self.act, self.seen = at, act, []

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        super().progress(done, total, unit, **values)
        if done == self.at:
            self.seen = ranks_of(os.getpid())
            assert len(self.seen) == 2
            self.act(self)


def gone(processes: list[psutil.Process], seconds: float = 5.0) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_two_processes_learn_what_one_learns(
    parts: dict[str, Path], tmp_path: Path, stage: int
) -> None:
    one, two = Recorder(), Recorder()
    single = {**TWO, "processes": 1, "zero_stage": stage}
    expected = stages.run_align(parts, tmp_path / "one", one, **single)
    result = stages.run_align(parts, tmp_path / "two", two, **TWO, zero_stage=stage)
    assert two.losses == pytest.approx(one.losses, rel=1e-6)
    assert [step for step, _ in two.rows] == [step for step, _ in one.rows]
    assert "starts 2 processes" in two.lines
    assert sum(line.startswith("trains projector") for line in two.lines) == 1
    assert result.outputs == {"model": tmp_path / "two/model"}
    assert result.metrics["tokens"] == expected.metrics["tokens"]
    for name, value in stages.weights(expected.outputs["model"]).items():
        other = stages.weights(result.outputs["model"])[name]
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_it_resumes_to_the_same_bits_and_leaves_no_process(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    def interrupt(_: Watching) -> None:
        raise KeyboardInterrupt

    whole = stages.run_align(parts, tmp_path / "whole", **TWO)
    report = Watching(8, interrupt)
    with pytest.raises(KeyboardInterrupt):
        stages.run_align(parts, tmp_path / "cut", report, **TWO)
    assert gone(report.seen, 0), "they are ended before the error goes on"
    again = Recorder()
    resumed = stages.run_align(parts, tmp_path / "cut", again, **TWO)
    assert "resumed after step 5 from step-5" in again.lines
    assert stages.changed(whole.outputs["model"], resumed.outputs["model"]) == set()


@pytest.mark.slow
def test_a_stop_waits_for_the_checkpoint_in_flight_and_attachments_arrive(
    parts: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Watching) -> None:
        raise KeyboardInterrupt

    report = Watching(6, interrupt)
    mirror = SlowMirror(tmp_path / "mirror", seconds=7.0)  # longer than ranks are given to stop
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    config = stages.config(align, **TWO, steps=100_000, profile_steps=(2, 2))
    with pytest.raises(KeyboardInterrupt):
        align.run(config, parts, out_dir, report, mirror)
    assert gone(report.seen, 0)
    assert mirror.steps() == [5], "copied whole, after it was written"
    assert problem_of(mirror.folder / "step-5") is None
    assert sorted(report.files) == ["profile/rank-0.json", "profile/rank-1.json"]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_errors_of_a_rank_come_back_as_they_are(parts: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "data"
    empty.mkdir()
    with pytest.raises(UserError) as alone:
        stages.run_align({**parts, "data": empty}, tmp_path / "alone")
    with pytest.raises(UserError) as launched:
        stages.run_align({**parts, "data": empty}, tmp_path / "two", **TWO)
    assert str(launched.value) == str(alone.value)
    assert launched.value.exit_code == 2

    def kill_one(report: Watching) -> None:
        report.seen[1].kill()

    report = Watching(3, kill_one)
    with pytest.raises(VilaError, match="a process of 2 was killed") as killed:
        stages.run_align(parts, tmp_path / "killed", report, **TWO, steps=100_000)
    assert killed.value.exit_code == 1
    assert gone(report.seen)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_its_task(
    parts: dict[str, Path], tmp_path: Path, how: signal.Signals
) -> None:
    config = stages.config(align, **TWO, steps=100_000, save_every=0)
    (tmp_path / "call.json").write_text(
        dumps(
            {
                "config": config.model_dump(mode="json"),
                "inputs": {k: str(v) for k, v in parts.items()},
            }
        )
    )
    code = (
        "import json, sys, signal; from pathlib import Path\n"
        "from vila_core.stages import align\n"
        "folder = Path(sys.argv[1]); call = json.loads((folder / 'call.json').read_text())\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "inputs = {k: Path(v) for k, v in call['inputs'].items()}\n"
        "align.run(align.Config(**call['config']), inputs, folder)\n"
    )
    task = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        found: list[psutil.Process] = []
        while len(found) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            found = ranks_of(task.pid)
        assert len(found) == 2
        time.sleep(4)  # into the steps, where they wait for each other
        everything = psutil.Process(task.pid).children(recursive=True)
        task.send_signal(how)
        code = task.wait(20)
        assert code == (130 if how == signal.SIGTERM else -signal.SIGKILL)
        assert gone(everything)
    finally:
        task.kill()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"processes": 2, "packs_per_step": 2}, "processes 2 needs engine: deepspeed"),
        ({**TWO, "packs_per_step": 3}, r"packs_per_step \(3\) must be a multiple of processes"),
        ({"processes": 0}, "processes"),
    ],
)
def test_impossible_numbers_of_processes_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(TrainConfig, {"steps": 5, "lr": 0.1, **values}, where="recipe.yaml")


def test_a_rank_of_a_train_job_starts_no_others(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(align, "train_model", lambda *_: "here")
    assert stages.run_align(parts, tmp_path, **TWO) == "here"
