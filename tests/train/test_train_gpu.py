"""What only a GPU can show; skipped by name where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.tiny import Recorder, settings, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_nccl_and_the_gpu_learn_what_the_cpu_learns(
    precision: str, zero_stage: int, tmp_path: Path
) -> None:
    on_cpu, on_gpu = Recorder(), Recorder()
    train(tmp_path / "cpu", settings(device="cpu", save_every=0), report=on_cpu)
    config = settings(
        device="cuda", engine="deepspeed", zero_stage=zero_stage, precision=precision, save_every=0
    )
    train(tmp_path / "gpu", config, report=on_gpu)
    # Dropout draws other numbers on a GPU: the curves are near, not equal.
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=0.2)


def test_a_run_on_a_gpu_resumes(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", settings(device="cuda", precision="bf16"))
    train(tmp_path / "again", settings(device="cuda", precision="bf16"))
    (newest,) = (tmp_path / "again/checkpoints").glob("step-12")
    (newest / "manifest.json").unlink()
    resumed, result = train(tmp_path / "again", settings(device="cuda", precision="bf16"))
    assert result.resumed_from == 10
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
