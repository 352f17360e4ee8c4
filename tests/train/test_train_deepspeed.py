from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.train.test_train_resume import ROOT, Breaks
from tests.train.tiny import Recorder, TinyModel, same_weights, settings, train

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
def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    runs = [
        {"engine": "deepspeed", "zero_stage": stage, "packs_per_step": 4} for stage in (0, 1, 2, 3)
    ]
    text = json.dumps(runs)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    two = [sys.executable, *launcher, "-m", "tests.train.tiny", str(tmp_path / "two"), text]
    done = subprocess.run(
        two, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from tests.train.tiny import TinySource, tiny_loss
    from vila_core.train.loop import fit

    model, report = TinyModel(dropout=0.0), Recorder()
    config = settings(packs_per_step=4)
    out_dir = tmp_path / "one"
    fit(model, TinySource(4), config, loss_fn=tiny_loss, out_dir=out_dir, report=report)
    for number in range(4):
        result = json.loads((tmp_path / "two" / str(number) / "result.json").read_text())
        assert result["losses"] == pytest.approx(report.losses, rel=1e-6), f"ZeRO-{number}"
        for key, value in model.state_dict().items():
            torch.testing.assert_close(
                torch.tensor(result["weights"][key]), value, rtol=1e-4, atol=1e-5
            )
