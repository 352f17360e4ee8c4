"""The planner's arithmetic against the model, the FLOP counter, autograd and the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peak import MODELS, build, pack

from vila_core.errors import UserError
from vila_core.model import build_preset, causal, freeze, load_preset
from vila_core.train import estimate
from vila_core.train.config import TrainConfig
from vila_core.train.engine import PlainEngine
from vila_core.train.flops import _DATA_SHEET, FlopCounter
from vila_core.train.loss import vila_loss
from vila_ops.gpus import load_gpu

ALIGN, TUNE = ("projector",), ("projector", "language_model")
ALL = ("vision_tower", *TUNE)
# Long samples, as short ones are padded on CPU: the counter counts that, the plan does not.
SAMPLES = [(4, 200), (0, 180), (9, 150)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("trains", [ALIGN, TUNE, ALL])
def test_flops_and_activations_are_what_the_model_computes_and_keeps(
    name: str, trains: tuple[str, ...]
):
    torch.manual_seed(0)
    model = build(name, trains)
    for samples in (SAMPLES, [(0, 300), (0, 200)]):
        batch, load = pack(model, samples)
        shape = estimate.shape_of(model)
        with FlopCounter() as counter:
            kept = _kept_bytes(model, batch)
        assert estimate.flops(shape, load, trains) == pytest.approx(counter.flops, rel=0.02)
        memory = _memory(shape, load, trains)
        assert memory.activations == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("trains", [ALIGN, TUNE])
@pytest.mark.parametrize("mode", ["autocast", "pure", "checkpointed"])
def test_activations_in_bf16_and_checkpointed(trains: tuple[str, ...], mode: str):
    torch.manual_seed(0)
    model = build("llama, clip, linear", trains)
    batch, load = pack(model, SAMPLES)
    shape = estimate.shape_of(model)
    if mode == "checkpointed":
        model.language_model.activation_checkpointing_enable()
        kept = _kept_bytes(model, batch)
        memory = _memory(shape, load, trains)
        # Of the layer that is recomputed, nothing is kept by the forward pass.
        language = shape.language
        inputs = language.layers * load.tokens * language.width * 4
        layer = memory.activations - memory.activations_checkpointed + inputs
        layer /= language.layers - 1
        planned = memory.activations_checkpointed - layer
        assert planned == pytest.approx(kept, rel=0.07)  # the hooks miss the position tables
        return
    if mode == "pure":  # as DeepSpeed's engine has it: tables stay in fp32
        tables = {key: value.clone() for key, value in model.named_buffers()}
        model.to(torch.bfloat16)
        for key, buffer in model.named_buffers():
            buffer.data = tables[key]
        batch.tensors["pixel_values"] = batch.tensors["pixel_values"].bfloat16()
        kept = _kept_bytes(model, batch) + batch.tensors["pixel_values"].nbytes  # arrives as fp32
    else:
        kept = _kept_bytes(model, batch, torch.autocast("cpu", dtype=torch.bfloat16))
    memory = _memory(shape, load, trains, precision="bf16", zero_stage=int(mode == "pure"))
    planned = memory.activations
    if mode == "autocast":
        planned += memory.buffers  # its copies of the weights
    assert planned == pytest.approx(kept, rel=0.02)


def _memory(shape: estimate.Shape, load: estimate.Load, trains: Any, **changes: Any) -> Any:
    settings = {"precision": "fp32", "zero_stage": 0, "ranks": 1, "cpu": True} | changes
    return estimate.memory(shape, load, trains, **settings)


def _kept_bytes(model: Any, batch: Any, context: Any = None) -> int:
    """Bytes that one forward pass keeps for the backward pass, beside parameters; with pixels."""
    given = [*model.parameters(), *model.buffers(), *batch.tensors.values()]
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, torch.Tensor] = {}  # alive, so that no storage is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        context or contextlib.nullcontext(),
    ):
        vila_loss(model, batch)
    pixels = batch.tensors["pixel_values"].nbytes
    return pixels + sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("trains", [ALIGN, TUNE])
def test_weights_gradients_and_optimiser_states_are_exact(trains: tuple[str, ...]):
    model = build("llama, clip, linear", trains)
    batch, load = pack(model, SAMPLES)
    engine = PlainEngine(model, TrainConfig(steps=1, lr=1e-3, device="cpu"))
    engine.backward(batch, vila_loss, scale=1.0, last=True)
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    engine.update(1.0)
    states = sum(
        value.nbytes
        for state in engine.optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    )
    memory = _memory(estimate.shape_of(model), load, trains)
    assert memory.weights == sum(p.nbytes for p in model.parameters())
    assert memory.gradients == gradients
    assert memory.optimizer == states


@pytest.mark.parametrize("name", ["miniature", "vila-7b", "vila-13b-code"])
def test_parameters_are_the_models(name: str):
    with torch.device("meta"):
        model = build_preset(load_preset(name))
    shape = estimate.shape_of(model)
    assert shape.total == sum(p.numel() for p in model.parameters())
    for trains in (ALIGN, TUNE, ALL):
        freeze(model, trains)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert shape.trained(trains) == trained


def test_sharding_divides_what_it_shards():
    model = build("miniature", TUNE, device="meta")
    load = estimate.Load(1, 1024, 10, 500, 1024**2)
    shape = estimate.shape_of(model)

    def one(zero: int, ranks: int) -> estimate.Memory:
        return _memory(shape, load, TUNE, precision="bf16", zero_stage=zero, ranks=ranks)

    trained = shape.trained(TUNE)
    for ranks in (1, 8):
        assert one(0, ranks).weights == 4 * shape.total  # autocast over fp32 weights
        assert one(1, ranks).optimizer == 12 * trained / ranks
        assert one(2, ranks).gradients == 4 * trained / ranks
        assert one(3, ranks).weights == 2 * shape.total / ranks
        assert one(1, ranks).activations == one(3, ranks).activations


def test_the_blocks_of_attention_are_the_kernels():
    assert (estimate.BLOCK, estimate.BLOCKED_LONGEST) == (causal.BLOCK, causal.LONGEST)


def test_experts_are_refused():
    model = build("miniature", TUNE, device="meta")
    model.config.text_config.num_local_experts = 8
    with pytest.raises(UserError, match="mixtures of experts"):
        estimate.shape_of(model)


def test_the_peaks_are_those_of_mfu():
    for name in ("h200", "h100", "a100-80", "a100-40"):
        gpu = load_gpu(name, ranks=1, threads=1, precisions=set())
        (sheet,) = (peaks for part, peaks in _DATA_SHEET if part == name.split("-")[0].upper())
        assert dict(gpu.peaks) == sheet


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's VmHWM")
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "miniature", "trains": TUNE},
        {"model": "llama, clip, linear", "trains": TUNE},
        {"model": "grouped heads, siglip, downsampling", "trains": ALIGN},
        {"model": "qwen2, siglip, mlp2x_gelu", "trains": TUNE},
        {
            "model": "llama, clip, linear",
            "trains": TUNE,
            "engine": "deepspeed",
            "zero_stage": 2,
            "precision": "bf16",
        },
    ],
    ids=lambda settings: f"{settings['model']}, {settings.get('engine', 'plain')}",
)
def test_the_estimate_is_near_the_true_peak(settings: dict[str, Any]):
    """The stated error holds: a process trains, the kernel says what it held at most."""
    samples = [[10, 900], [0, 1000], [20, 800]] if settings["model"] == "miniature" else SAMPLES
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(Path(__file__).with_name("peak.py")),
            json.dumps({"samples": samples, **settings}),
        ],
        # Every larger block by itself, given back when freed: the peak is that of live tensors.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    low, high = estimate.ERROR
    error = result["estimate"] / result["measured"] - 1
    print(f"{settings}: {result['measured'] / 2**20:.1f} MiB, estimate {error:+.1%}")
    assert low <= error <= high
