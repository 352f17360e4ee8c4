"""One optimiser step: all micro-batches of a rank, what they held, and the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vila_core.errors import VilaError
from vila_core.train.config import TrainConfig
from vila_core.train.engine import Engine, LossFn
from vila_core.train.features import FeatureCache
from vila_core.train.flops import FlopCounter
from vila_core.train.metrics import StepCounts
from vila_core.train.schedule import lr_factor
from vila_core.train.watchdog import Watchdog
from vila_core.types import Batch

_KEYS_SHOWN = 50


@dataclass(frozen=True)
class StepResult:
    """What one step came to, over all ranks."""

    loss_sum: float
    norm: float  # of the gradient, before clipping
    counts: StepCounts
    hits: int  # images whose features came from the cache
    flops: float | None  # model FLOPs, where they were counted


class TrainStep:
    """Does steps with one engine and loss."""

    def __init__(
        self,
        engine: Engine,
        config: TrainConfig,
        loss_fn: LossFn,
        features: FeatureCache | None,
        watchdog: Watchdog,
    ) -> None:
        self._engine, self._config = engine, config
        self._loss_fn = loss_fn if features is None else features.around(loss_fn)
        self._features, self._watchdog = features, watchdog

    def __call__(self, step: int, batches: list[Batch], *, count_flops: bool) -> StepResult:
        """Do step number `step` (the first is 1) with this rank's micro-batches.

        Raises VilaError, before the update, for a loss or gradient norm that isn't finite and for
        a step that supervises nothing.
        """
        engine = self._engine
        self._watchdog.batches = batches
        counts = _count(engine, batches)
        if not counts.supervised > 0:
            keys = _keys(engine, batches)
            raise VilaError(f"step {step}: no token is supervised. Samples: {keys}.")
        counter = FlopCounter() if count_flops else None
        sums = self._passes(batches, _counted(self._loss_fn, counter), 1.0 / counts.supervised)
        mine = math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan
        found = self._features.take_hits() if self._features else 0
        loss_sum, hits = engine.total([mine, float(found)])
        if not math.isfinite(loss_sum):
            bad = [b for b, value in zip(batches, sums, strict=True) if not math.isfinite(value)]
            _stop(step, "loss", _keys(engine, bad))
        norm = engine.update(factor_at(self._config, step))
        if not math.isfinite(norm):
            _stop(step, "gradient norm", _keys(engine, batches))
        flops = None if counter is None else engine.total([counter.flops])[0]
        return StepResult(loss_sum, norm, counts, int(hits), flops)

    def _passes(self, batches: list[Batch], loss_fn: LossFn, scale: float) -> list[float]:
        """Add up the gradients; return each micro-batch's loss sum."""
        losses = []
        for number, batch in enumerate(batches, start=1):
            self._watchdog.micro_batch = number
            last = number == len(batches)
            losses.append(self._engine.backward(batch, loss_fn, scale=scale, last=last))
        self._watchdog.micro_batch = 0
        return torch.stack(losses).double().tolist()  # one wait for the device per step


def factor_at(config: TrainConfig, step: int) -> float:
    """Return the share of the peak learning rates at which step number `step` updates."""
    return lr_factor(
        step - 1,
        steps=config.steps,
        warmup_steps=config.warmup_steps,
        min_lr_ratio=config.min_lr_ratio,
    )


def _count(engine: Engine, batches: Sequence[Batch]) -> StepCounts:
    values = [
        sum(batch.supervised for batch in batches),
        float(sum(batch.num_tokens for batch in batches)),
        float(sum(batch.num_images for batch in batches)),
        float(sum(batch.num_image_tokens for batch in batches)),
    ]
    supervised, *numbers = engine.total(values)
    tokens, images, image_tokens = map(int, numbers)
    return StepCounts(supervised, tokens, images, image_tokens)


def _counted(loss_fn: LossFn, counter: FlopCounter | None) -> LossFn:
    """Return `loss_fn`, counting its FLOPs in `counter` where there is one."""
    if counter is None:
        return loss_fn

    def counted(model: Any, batch: Batch) -> torch.Tensor:
        with counter:
            return loss_fn(model, batch)

    return counted


def _stop(step: int, what: str, keys: str) -> None:
    raise VilaError(
        f"step {step}: the {what} is not finite; nothing of this step is kept. "
        f"Samples: {keys}.\n  fix: look at these samples, or lower lr; a resumed run continues "
        "from the last checkpoint."
    )


def _keys(engine: Engine, batches: Sequence[Batch]) -> str:
    """Return the sample keys of `batches` on all ranks, as text."""
    mine = [key for batch in batches for key in batch.sample_keys]
    keys = [key for keys in engine.gather(mine) for key in keys]
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return (", ".join(keys[:_KEYS_SHOWN]) or "(the source names none)") + more
