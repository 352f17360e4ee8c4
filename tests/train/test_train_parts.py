from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from tests.train.tiny import TinyModel, settings
from vila_core.errors import UserError
from vila_core.train.config import TrainConfig
from vila_core.train.flops import FlopCounter, peak_flops
from vila_core.train.loss import next_token_loss, vila_loss
from vila_core.train.optim import parameter_groups
from vila_core.train.schedule import lr_factor
from vila_core.types import Batch


def test_schedule_warms_up_then_falls_as_a_cosine() -> None:
    factors = [lr_factor(s, steps=100, warmup_steps=10, min_lr_ratio=0.1) for s in range(101)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.55)  # half-way down
    assert factors[100] == pytest.approx(0.1)
    assert all(one > other for one, other in itertools.pairwise(factors[10:]))
    assert lr_factor(0, steps=1) == 1


def test_groups_split_decay_and_projector() -> None:
    model = TinyModel()
    groups = parameter_groups(model, settings())
    found = {id(p): (g["peak_lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found[id(model.projector.weight)] == (0.01, 0.1)
    assert found[id(model.projector.bias)] == (0.01, 0.0)
    assert found[id(model.norm.weight)] == (0.02, 0.0)
    assert found[id(model.head.weight)] == (0.02, 0.1)
    assert id(model.embedding.weight) not in found
    assert len(groups) == 4


def test_next_token_loss_is_cross_entropy_of_the_supervised() -> None:
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 1, -100, 3, 4, 5], [-100, -100, 2, -100, 7, -100]])
    expected = torch.zeros(())
    for row in range(2):
        for place in range(1, 6):
            if labels[row, place] != -100:
                expected += F.cross_entropy(logits[row, place - 1], labels[row, place])
    torch.testing.assert_close(next_token_loss(logits, labels), expected)
    weights = torch.full((2, 6), 0.5)
    torch.testing.assert_close(next_token_loss(logits, labels, weights), expected / 2)


def test_no_supervised_token_gives_a_zero_with_a_gradient() -> None:
    logits = torch.randn(1, 4, 5, requires_grad=True)
    loss = next_token_loss(logits, torch.full((1, 4), -100))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


class Head(nn.Module):
    """Stands for the visual language model: the loss of `targets` at the places to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(
        self,
        input_ids: torch.Tensor,
        logits_to_keep: torch.Tensor,
        targets: torch.Tensor,
        target_weights: torch.Tensor | None,
        use_cache: bool,
    ) -> object:
        assert not use_cache
        logits = self.table(input_ids)[0, logits_to_keep]
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        losses = losses if target_weights is None else losses * target_weights
        return type("Output", (), {"loss": losses.sum()})


@pytest.mark.parametrize("weighted", [False, True])
def test_vila_loss_is_the_next_token_loss(weighted: bool) -> None:
    model, ids = Head(), torch.tensor([[1, 5, 2, 8, 9, 3]])
    labels = torch.tensor([[-100, 5, -100, 8, 9, -100]])
    tensors = {"input_ids": ids, "labels": labels}
    weights = torch.linspace(0.1, 1, 6)[None] if weighted else None
    if weights is not None:
        tensors["loss_weights"] = weights
    expected = next_token_loss(model.table(ids), labels, weights)
    torch.testing.assert_close(vila_loss(model, Batch(tensors, 3.0, 6)), expected)


def test_flops_of_a_linear_layer_are_counted_by_what_needs_a_gradient() -> None:
    x, layer = torch.ones(5, 8), nn.Linear(8, 3)
    forward = 2 * 5 * 8 * 3
    for train_input, train_layer, times in [(0, 0, 1), (0, 1, 2), (1, 0, 2), (1, 1, 3)]:
        layer.requires_grad_(bool(train_layer))
        with FlopCounter() as counter:
            layer(x.clone().requires_grad_(bool(train_input)))
        assert counter.flops == times * forward
    with FlopCounter() as counter, torch.no_grad():
        layer(x)
    assert counter.flops == forward


def test_flops_of_convolution_product_and_attention() -> None:
    with FlopCounter() as counter:
        nn.Conv2d(3, 4, 2, stride=2).requires_grad_(False)(torch.ones(2, 3, 8, 8))
    assert counter.flops == 2 * (2 * 4 * 4 * 4) * (3 * 2 * 2)
    with FlopCounter() as counter:
        torch.ones(2, 3, 4) @ torch.ones(2, 4, 5)
    assert counter.flops == 2 * 2 * 3 * 4 * 5
    query = torch.ones(1, 2, 6, 4)
    with FlopCounter() as counter:
        F.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert counter.flops == 2 * 2 * (2 * 6 * 6 * 4) / 2


def test_flops_agree_with_torchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    x = torch.ones(10, 8)
    with FlopCounterMode(display=False) as theirs:
        model(x).sum().backward()
    with FlopCounter() as ours:
        model(x).sum()
    assert ours.flops == theirs.get_total_flops()


def test_the_peak_is_measured_once_without_drawing_random_numbers() -> None:
    before = torch.get_rng_state()
    peak, how = peak_flops(torch.device("cpu"), "fp32")
    assert peak_flops(torch.device("cpu"), "fp32") == (peak, how)
    assert 1e8 < peak < 1e14
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 20}, r"warmup_steps \(20\) is more than steps \(12\)"),
        ({"zero_stage": 2}, "needs engine: deepspeed"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"steps": 0}, "steps"),
    ],
)
def test_config_refuses_what_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_config_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, vila_core.train.config; assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_cuda_is_refused_where_there_is_none() -> None:
    from vila_core.train.engine import choose_device

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UserError, match="device: auto"):
        choose_device(TrainConfig(steps=1, lr=1.0, device="cuda"))


def test_plain_refuses_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from vila_core.train.engine import create_engine

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="engine: deepspeed"):
        create_engine(TinyModel(), settings())
