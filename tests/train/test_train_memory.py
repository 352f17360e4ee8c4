"""Activation checkpointing and learning rates by part, in a real stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train import test_train_stages as stages
from tests.train.tiny import Recorder, settings, train
from vila_core.errors import UserError
from vila_core.stages import sft
from vila_core.train.optim import parameter_groups

parts = stages.parts  # the fixture
EVERYTHING = ("vision_tower", "projector", "language_model")
ENGINES = [{"engine": "plain"}] + [
    {"engine": "deepspeed", "zero_stage": stage, "precision": precision}
    for precision in ("fp32", "bf16")
    for stage in (0, 1, 2, 3)
]


@pytest.fixture(scope="module")
def aligned(parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `sft` takes."""
    done = stages.run_align(parts, tmp_path_factory.mktemp("aligned"), steps=2, save_every=0)
    return {"data": parts["data"], "base": done.outputs["model"]}


def tune(inputs: dict[str, Path], out_dir: Path, **train: Any) -> tuple[Path, Recorder]:
    out_dir.mkdir()
    report = Recorder()
    config = stages.config(sft, **{"steps": 6, "save_every": 0, "log_every": 2, **train})
    config = config.model_copy(update={"trains": EVERYTHING})
    return sft.run(config, inputs, out_dir, report).outputs["model"], report


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: "-".join(map(str, e.values())))
def test_recomputed_activations_change_no_bit(
    aligned: dict[str, Path],
    tmp_path: Path,
    engine: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    recompute = torch.utils.checkpoint.checkpoint

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["use_reentrant"])
        return recompute(*args, **kwargs)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted)
    kept, report = tune(aligned, tmp_path / "kept", **engine)
    assert not calls
    again, second = tune(aligned, tmp_path / "again", **engine, activation_checkpointing=True)
    # Two layers of the tower (the last one's output isn't used) and two of the language model.
    assert len(calls) >= 6 * 3
    assert not any(calls)
    assert second.losses == report.losses
    assert stages.changed(kept, again) == set()
    norms = [[row["grad_norm"] for _, row in r.rows] for r in (report, second)]
    assert norms[0] == norms[1]
    flops = [[row["mfu"] * row["step_s"] for _, row in r.rows] for r in (report, second)]
    assert flops[0] == pytest.approx(flops[1]), "recomputation is not model FLOPs"


def test_a_model_without_such_layers_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="activation_checkpointing: TinyModel is not a transformer"):
        train(tmp_path, settings(activation_checkpointing=True))


def test_each_part_learns_at_its_own_rate(aligned: dict[str, Path], tmp_path: Path) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision_tower, self.projector, self.language_model, self.other = (
                nn.Linear(2, 2) for _ in range(4)
            )

    model = Parts()
    rates = {"lr": 0.5, "lr_projector": None, "lr_vision_tower": 0.1, "lr_language_model": 0.2}
    groups = parameter_groups(model, settings(**rates))
    found = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
    expected = {"vision_tower": 0.1, "projector": 0.5, "language_model": 0.2, "other": 0.5}
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == expected[name.split(".")[0]]
    rates = {"lr": 0.01, "lr_vision_tower": 1e-30, "lr_language_model": 0.002}
    folder, report = tune(aligned, tmp_path / "out", **rates)
    before, after = stages.weights(aligned["base"]), stages.weights(folder)
    moved = {name: (after[name] - before[name]).abs().max() for name in before}
    assert all(change < 1e-20 for name, change in moved.items() if "vision_tower" in name)
    assert moved["language_model.model.layers.0.mlp.up_proj.weight"] > 1e-4
    row = report.rows[0][1]
    assert row["lr_vision_tower"] == pytest.approx(1e-28 * row["lr"])
    assert row["lr_language_model"] == pytest.approx(0.2 * row["lr"])
    assert "lr_projector" not in row
