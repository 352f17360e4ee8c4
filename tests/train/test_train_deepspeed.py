from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.train.test_train_resume import ROOT, Breaks
from tests.train.tiny import (
    Recorder,
    TinyModel,
    TinySource,
    same_weights,
    settings,
    tiny_loss,
    train,
)
from vila_core.train.loop import fit

LINEAR = F.linear
ENGINES = [
    {"engine": "deepspeed", "zero_stage": stage, "precision": precision}
    for precision in ("fp32", "bf16")
    for stage in (0, 1, 2, 3)
]


def name(changes: dict[str, Any]) -> str:
    return f"zero{changes['zero_stage']}-{changes['precision']}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("packs_per_step", [1, 3])
def test_zero_0_gives_the_bits_of_the_plain_engine(
    packs_per_step: int, precision: str, tmp_path: Path
) -> None:
    changes = {"packs_per_step": packs_per_step, "precision": precision}
    plain_report, report = Recorder(), Recorder()
    plain, _ = train(tmp_path / "plain", settings(**changes), report=plain_report)
    config = settings(**changes, engine="deepspeed")
    model, _ = train(tmp_path / "deepspeed", config, report=report)
    assert same_weights(model, plain)
    assert report.losses == plain_report.losses
    for row, plain_row in zip(report.rows, plain_report.rows, strict=True):
        assert row[1]["grad_norm"] == plain_row[1]["grad_norm"]


@pytest.mark.parametrize("changes", ENGINES, ids=name)
def test_every_zero_stage_trains_resumes_exactly_and_gives_the_model_back(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = settings(**changes, packs_per_step=1)
    plain_report, report = Recorder(), Recorder()
    plain = settings(precision=changes["precision"], save_every=0)
    train(tmp_path / "plain", plain, report=plain_report)
    whole, _ = train(tmp_path / "whole", config, report=report)
    tolerance = 1e-5 if changes["precision"] == "fp32" else 0.03
    assert report.losses == pytest.approx(plain_report.losses, rel=tolerance)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    assert torch.equal(whole.embedding.weight, TinyModel().embedding.weight), "frozen, unrounded"
    assert whole(torch.tensor([[1, 2]])).shape == (1, 2, 32), "no hook is left behind"
    assert F.linear is LINEAR, "ZeRO-3's own is taken back"
    per_step = [[row["mfu"] * row["step_s"] for _, row in r.rows] for r in (report, plain_report)]
    assert per_step[0] == pytest.approx(per_step[1]), "the same model FLOPs are counted"
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", config, source=Breaks(7))
    resumed = Recorder()
    model, result = train(tmp_path / "cut", config, report=resumed)
    assert result.resumed_from == 5
    assert resumed.losses == report.losses[5:]
    assert same_weights(model, whole)


def test_another_engine_continues_a_checkpoint_and_says_so(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", settings(save_every=0))
    for number, changes in enumerate([{"zero_stage": 2}, {"zero_stage": 3}]):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            train(folder, settings(), source=Breaks(6))
        report = Recorder()
        model, _ = train(folder, settings(engine="deepspeed", **changes), report=report)
        assert any("equal within rounding" in line for line in report.lines)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_and_continue_each_other(tmp_path: Path) -> None:
    """Each ZeRO stage: two ranks from the start, two ranks after one, and one rank after two."""
    model, report = one_rank(tmp_path / "one", stage=None)
    configs = [
        {"engine": "deepspeed", "zero_stage": stage, "packs_per_step": 4, "keep": 9}
        for stage in (0, 1, 2, 3)
    ]
    for stage in range(4):  # what a kill after step 5 would have left, of another stage
        one_rank(tmp_path / f"one-{stage}", stage=(stage + 1) % 4)
        leave_step_5(tmp_path / f"one-{stage}", tmp_path / "two" / str(4 + stage))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    text = json.dumps(configs * 2)
    two = [sys.executable, *launcher, "-m", "tests.train.tiny", str(tmp_path / "two"), text]
    done = subprocess.run(
        two, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    samples = packs(tmp_path / "one")
    for number in range(8):
        folder = tmp_path / "two" / str(number)
        result = json.loads((folder / "result.json").read_text())
        expected = report.losses[5 if number > 3 else 0 :]
        assert result["losses"] == pytest.approx(expected, rel=1e-6), f"run {number}"
        assert packs(folder) == samples, "the same samples in the same order"
        for key, value in model.state_dict().items():
            torch.testing.assert_close(
                torch.tensor(result["weights"][key]), value, rtol=1e-4, atol=1e-5
            )
    for stage in range(4):
        folder = tmp_path / f"after-two-{stage}"
        leave_step_5(tmp_path / "two" / str(stage), folder)
        _, resumed = one_rank(folder, stage=stage)
        assert resumed.losses == pytest.approx(report.losses[5:], rel=1e-6), f"ZeRO-{stage}"
        assert packs(folder) == samples
        assert any("equal within rounding" in line for line in resumed.lines)


def one_rank(folder: Path, *, stage: int | None) -> tuple[TinyModel, Recorder]:
    """Train in this process what the ranks train: no dropout, whose masks depend on the rank."""
    model, report = TinyModel(dropout=0.0), Recorder()
    engine = {} if stage is None else {"engine": "deepspeed", "zero_stage": stage}
    config = settings(packs_per_step=4, keep=9, **engine)
    fit(model, TinySource(4), config, loss_fn=tiny_loss, out_dir=folder, report=report)
    return model, report


def leave_step_5(run: Path, folder: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-5", folder / "checkpoints" / "step-5")


def packs(folder: Path) -> dict[int, list[list[str]]]:
    """The sample keys of each pack of steps 6 to 12, from the checkpoints."""
    rows = [
        row
        for step in (10, 12)
        for row in json.loads((folder / f"checkpoints/step-{step}/state.json").read_text())["steps"]
    ]
    assert [row["step"] for row in rows] == list(range(6, 13))
    return {row["step"]: row["packs"] for row in rows}
