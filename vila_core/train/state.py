"""What a resumable run is beside its tensors: random generators, fingerprints, running sums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from vila_core.errors import UserError
from vila_core.train.config import TrainConfig
from vila_core.types import Batch, StepSource

_SAMPLED = 1024  # values per tensor that go into the model's fingerprint


class Trace:
    """What the steps since the last checkpoint did, for `vila verify resume` to compare with."""

    def __init__(self) -> None:
        self.packs: list[list[list[str]]] = []  # this rank's: keys by step and micro-batch
        self._steps: list[dict[str, Any]] = []

    def add(self, step: int, loss: float, batches: Sequence[Batch]) -> None:
        """Note one step."""
        self._steps.append({"step": step, "loss": loss})
        self.packs.append([list(batch.sample_keys) for batch in batches])

    def take(self, ranks: Sequence[list[list[list[str]]]]) -> list[dict[str, Any]]:
        """Return the steps with the packs of all `ranks` in their global order, and forget them."""
        found = [
            {**step, "packs": [pack for together in zip(*packs, strict=True) for pack in together]}
            for step, packs in zip(self._steps, zip(*ranks, strict=True), strict=True)
        ]
        self.packs, self._steps = [], []
        return found


@contextlib.contextmanager
def deterministic(config: TrainConfig) -> Iterator[None]:
    """Set seeds, threads and deterministic algorithms; give threads and algorithms back after.

    On CUDA an operator without a deterministic form warns instead of failing: there the promise is
    equality within rounding, not of bits.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    seed_all(config.seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def seed_all(*numbers: int) -> None:
    """Seed python, numpy and torch from `numbers`."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_rng(device: torch.device) -> dict[str, Any]:
    """Return the states of all random generators as JSON-able values."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes().hex()
    return state


def set_rng(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `get_rng` gave."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_byte_tensor(state["torch"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_byte_tensor(state["cuda"]), device)


def fingerprint(model: nn.Module, source: StepSource, config: TrainConfig) -> dict[str, Any]:
    """Return what must be equal for a checkpoint to continue: settings, data, first weights."""
    return {
        "config": config.numbers(),
        "data": source.fingerprint,
        "model": model_fingerprint(model),
    }


def model_fingerprint(model: nn.Module) -> str:
    """Return a digest of names, shapes, kinds, freezing and a sample of the values of `model`.

    A sample (1,024 values per tensor, evenly spread) rather than all: it tells another base model
    at once, and costs milliseconds where reading 13 billion values costs minutes.
    """
    digest = hashlib.sha256(str(getattr(model, "adapter_settings", "")).encode())
    for name, parameter in model.named_parameters():
        line = f"{name} {tuple(parameter.shape)} {parameter.dtype} {parameter.requires_grad}\n"
        digest.update(line.encode())
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)].float().cpu()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def check_fingerprint(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise UserError, naming what differs, unless a checkpoint was made by this very training."""
    problems = []
    before, after = saved["config"], now["config"]
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            problems.append(f"{key} was {before.get(key)}, is {after.get(key)}")
    if saved["data"] != now["data"]:
        problems.append(f"the data are others ({saved['data'][:12]} -> {now['data'][:12]})")
    if saved["model"] != now["model"]:
        problems.append("the model it starts from has other weights, shapes or frozen parts")
    if problems:
        raise UserError(
            f"{where}: can't resume, because since this checkpoint {'; '.join(problems)}.\n"
            "  fix: put that back, or delete the checkpoints (or use a fresh output folder) to "
            "train from the start."
        )


def _byte_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
