"""A rank whose pack has no image must not leave the others waiting in a collective."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.test_train_resume import ROOT
from tests.train.uneven_ranks import STEPS, train


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_rank_with_text_only_takes_part(zero_stage: int, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    folder = tmp_path / "two"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.train.uneven_ranks", str(folder), str(zero_stage)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,  # a hang fails the test
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((folder / "result.json").read_text())
    model, report = train(tmp_path / "one")
    assert len(result["losses"]) == STEPS
    assert result["losses"] == pytest.approx(report.losses, rel=1e-4)
    norms = {name: float(parameter.detach().norm()) for name, parameter in model.named_parameters()}
    assert result["norms"] == pytest.approx(norms, rel=1e-3, abs=1e-3)
