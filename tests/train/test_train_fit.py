from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.tiny import (
    Recorder,
    TinyModel,
    TinySource,
    same_weights,
    settings,
    tiny_loss,
    train,
)
from vila_core.errors import UserError, VilaError
from vila_core.train.checkpoint import Checkpoints
from vila_core.train.loop import fit
from vila_core.train.schedule import lr_factor
from vila_core.types import Batch

GOLDEN = Path(__file__).parent / "golden" / "tiny_losses.txt"


def by_hand(packs_per_step: int) -> tuple[TinyModel, list[float]]:
    """The training that `fit` promises, written out in a dozen lines of plain torch."""
    config = settings(packs_per_step=packs_per_step)
    model = TinyModel(dropout=0.0)
    torch.set_num_threads(1)
    groups = [
        {"params": [model.projector.weight], "peak": 0.01, "weight_decay": 0.1},
        {"params": [model.projector.bias], "peak": 0.01, "weight_decay": 0.0},
        {"params": [model.head.weight], "peak": 0.02, "weight_decay": 0.1},
        {"params": [model.norm.weight, model.norm.bias, model.head.bias], "peak": 0.02}
        | {"weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.02, fused=True)
    losses = []
    steps = TinySource(packs_per_step).steps({"drawn": 0})
    for step in range(config.steps):
        batches, _ = next(steps)
        count = sum(batch.supervised for batch in batches)
        terms = [tiny_loss(model, batch) / count for batch in batches]
        for term in terms:
            term.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * lr_factor(
                step, steps=12, warmup_steps=3, min_lr_ratio=0.1
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(float(term.detach()) for term in terms))
    return model, losses


@pytest.mark.parametrize("packs_per_step", [1, 3])
def test_fit_is_the_loop_written_out_by_hand(packs_per_step: int, tmp_path: Path) -> None:
    expected, losses = by_hand(packs_per_step)
    model, report = TinyModel(dropout=0.0), Recorder()
    config = settings(packs_per_step=packs_per_step)
    source = TinySource(packs_per_step)
    fit(model, source, config, loss_fn=tiny_loss, out_dir=tmp_path, report=report)
    assert report.losses == pytest.approx(losses, rel=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    """Packs of unequal supervision weigh by their tokens, not by pack."""
    model = TinyModel(dropout=0.0)
    batches = [TinySource().pack(number) for number in range(3)]
    total = sum(batch.supervised for batch in batches)
    sum(tiny_loss(model, batch) for batch in batches).div(total).backward()  # type: ignore[union-attr]
    wanted = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    report = Recorder()
    config = settings(packs_per_step=3, steps=1, warmup_steps=0, log_every=1, save_every=0)
    fresh = TinyModel(dropout=0.0)
    fit(fresh, TinySource(3), config, loss_fn=tiny_loss, out_dir=tmp_path, report=report)
    assert report.rows[0][1]["grad_norm"] == pytest.approx(float(wanted), rel=1e-6)


def test_the_loss_curve_is_the_golden_one(tmp_path: Path) -> None:
    """Refresh after a change that is meant: `python -m tests.train.refresh_golden`."""
    report = Recorder()
    train(tmp_path, settings(packs_per_step=2), report=report)
    golden = [float(line) for line in GOLDEN.read_text().splitlines()]
    assert report.losses == pytest.approx(golden, rel=1e-6)
    assert golden[-1] < 0.5 * golden[0], "the golden run learns"


def test_two_runs_give_the_same_bits_whatever_the_random_state_before(tmp_path: Path) -> None:
    one, _ = train(tmp_path / "one", settings())
    torch.manual_seed(99)
    torch.rand(3)
    other, _ = train(tmp_path / "other", settings(log_every=1, save_every=0))
    assert same_weights(one, other)
    third, _ = train(tmp_path / "third", settings(seed=1))
    assert not same_weights(one, third), "dropout follows the seed"


def test_frozen_parts_do_not_move(tmp_path: Path) -> None:
    model, _ = train(tmp_path, settings())
    assert torch.equal(model.embedding.weight, TinyModel().embedding.weight)
    assert not torch.equal(model.head.weight, TinyModel().head.weight)


def test_rows_hold_every_metric(tmp_path: Path) -> None:
    report = Recorder()
    _, result = train(tmp_path, settings(packs_per_step=2), report=report)
    assert [step for step, _ in report.rows] == [4, 8, 12]
    row = report.rows[-1][1]
    assert set(row) == {
        "loss", "lr", "lr_projector", "grad_norm", "tokens_per_s", "supervised_tokens_per_s",
        "image_tokens_per_s", "images_per_s", "mfu", "step_s", "data_wait_s", "forward_s",
        "backward_s", "optimiser_s", "checkpoint_s", "memory_mib", "pack_fill",
    }  # fmt: skip
    assert all(math.isfinite(value) and value > 0 for value in row.values())
    parts = [row[f"{name}_s"] for name in ("data_wait", "forward", "backward", "optimiser")]
    assert sum(parts) < row["step_s"]
    assert [row["checkpoint_s"] > 0 for _, row in report.rows] == [False, True, True]
    assert row["image_tokens_per_s"] == pytest.approx(4 * row["images_per_s"])
    assert row["pack_fill"] <= 1
    assert row["mfu"] < 1
    assert row["lr"] == pytest.approx(2 * row["lr_projector"])
    assert any("peak for MFU" in line and "measured" in line for line in report.lines)
    packs = [TinySource().pack(number) for number in range(24)]
    assert result.tokens == sum(pack.num_tokens for pack in packs)
    assert result.supervised_tokens == sum(pack.supervised for pack in packs)
    assert result.images == 24
    assert result.loss_last < result.loss_first
    assert report.rows[0][1]["loss"] != report.losses[3], "a row's loss is the mean since the last"


def test_each_phase_is_timed_and_checkpoints_slow_nothing_else(tmp_path: Path) -> None:
    """Sleeps of a known length in each phase come out in its column, and only there."""
    pause = 0.05

    class Slow(TinySource):
        def pack(self, number: int) -> Batch:
            time.sleep(pause)
            return super().pack(number)

    class SlowBackward(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, loss: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            time.sleep(3 * pause)
            return loss.clone()

        @staticmethod
        def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            time.sleep(2 * pause)
            return gradient

    def loss_fn(model: TinyModel, batch: Batch) -> torch.Tensor:
        return SlowBackward.apply(tiny_loss(model, batch))  # type: ignore[return-value]

    report = Recorder()
    config = settings(steps=4, log_every=2, save_every=0)
    fit(TinyModel(), Slow(), config, loss_fn=loss_fn, out_dir=tmp_path, report=report)
    row = report.rows[-1][1]
    for name, times in {"data_wait_s": 1, "forward_s": 3, "backward_s": 2}.items():
        assert times * pause <= row[name] < (times + 0.9) * pause, name
    assert row["optimiser_s"] < pause
    assert row["checkpoint_s"] == 0
    assert row["step_s"] >= 6 * pause


def test_the_loss_of_a_row_is_the_mean_over_tokens_since_the_last(tmp_path: Path) -> None:
    report = Recorder()
    train(tmp_path, settings(), report=report)
    packs = [TinySource().pack(number) for number in range(4)]
    weighted = sum(loss * p.supervised for loss, p in zip(report.losses, packs, strict=False))
    expected = weighted / sum(pack.supervised for pack in packs)
    assert report.rows[0][1]["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("packs_per_step", [1, 2])
def test_a_non_finite_loss_stops_before_the_update_and_names_the_samples(
    packs_per_step: int, tmp_path: Path
) -> None:
    poisoned = 5 * packs_per_step
    source = TinySource(packs_per_step, poison=poisoned)
    model, config = TinyModel(), settings(packs_per_step=packs_per_step, save_every=1)
    with pytest.raises(VilaError, match="step 6: the loss is not finite") as caught:
        fit(model, source, config, loss_fn=tiny_loss, out_dir=tmp_path)
    assert f"tiny/00000/{poisoned:06d}" in str(caught.value)
    assert f"tiny/00000/{poisoned + 1:06d}" not in str(caught.value), "only the bad pack is named"
    saved = Checkpoints(tmp_path / "checkpoints", keep=2).latest()
    assert saved is not None
    assert saved.step == 5
    for name, value in saved.tensors("weights"):
        assert torch.equal(model.state_dict()[name], value), "weights are those before the step"


def test_a_non_finite_gradient_stops_before_the_update(tmp_path: Path) -> None:
    def loss_fn(model: TinyModel, batch: Batch) -> torch.Tensor:
        return tiny_loss(model, batch) + torch.sqrt((model.head.weight * 0).sum())

    model = TinyModel()
    with pytest.raises(VilaError, match="gradient norm is not finite") as caught:
        fit(model, TinySource(), settings(), loss_fn=loss_fn, out_dir=tmp_path)
    assert "tiny/00000/000000" in str(caught.value)
    assert same_weights(model, TinyModel())


def test_a_step_that_supervises_nothing_is_named(tmp_path: Path) -> None:
    class Silent(TinySource):
        def pack(self, number: int) -> Batch:
            batch = super().pack(number)
            batch.supervised = 0.0
            return batch

    with pytest.raises(VilaError, match=r"no token is supervised.*tiny/00000/000000"):
        train(tmp_path, settings(), source=Silent())


def test_a_source_that_disagrees_with_the_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="packs_per_step is 2"):
        train(tmp_path, settings(packs_per_step=2), source=TinySource(3))


def test_an_all_frozen_model_is_refused(tmp_path: Path) -> None:
    model = TinyModel().requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        fit(model, TinySource(), settings(), loss_fn=tiny_loss, out_dir=tmp_path)


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(tmp_path: Path) -> None:
    exact, reduced = Recorder(), Recorder()
    train(tmp_path / "fp32", settings(), report=exact)
    model, _ = train(tmp_path / "bf16", settings(precision="bf16"), report=reduced)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert reduced.losses == pytest.approx(exact.losses, rel=0.05)
    assert reduced.losses != exact.losses


def test_threads_and_algorithms_are_given_back(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        model, _ = train(tmp_path, settings(threads=1))
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
        assert model.training
    finally:
        torch.set_num_threads(1)
