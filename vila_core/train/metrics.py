"""Sums between two logged steps, and the row of metrics made of them."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from vila_core.train.phases import Phases

FIRST_LAST = 10  # steps in the means `loss_first` and `loss_last`


@dataclass
class Tally:
    """What has been counted since the last row and since the start. Saved with a checkpoint.

    Counts are over all ranks. Wall and CPU seconds sum over attempts.
    """

    loss_sum: float = 0.0  # since the last row
    supervised: float = 0.0  # since the last row
    first: list[float] = field(default_factory=list)  # losses of the first steps
    last: list[float] = field(default_factory=list)  # losses of the newest steps
    total_tokens: int = 0
    total_supervised: float = 0.0
    total_images: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    checkpoint_s: float = 0.0  # part of wall_s
    total_hits: int = 0  # images whose features came from the cache

    def add(self, loss_sum: float, counts: StepCounts, hits: int = 0) -> float:
        """Count one step; return its loss (the mean over supervised tokens)."""
        loss = loss_sum / counts.supervised
        self.loss_sum += loss_sum
        self.supervised += counts.supervised
        self.total_tokens += counts.tokens
        self.total_supervised += counts.supervised
        self.total_images += counts.images
        self.total_hits += hits
        if len(self.first) < FIRST_LAST:
            self.first.append(loss)
        self.last = [*self.last[-(FIRST_LAST - 1) :], loss]
        return loss

    def take_loss(self) -> float:
        """Return the mean loss since the last row and start anew."""
        loss = self.loss_sum / self.supervised
        self.loss_sum = self.supervised = 0.0
        return loss

    def to_json(self) -> dict[str, Any]:
        """Return the tally as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class StepCounts:
    """What one step held, over all ranks."""

    supervised: float
    tokens: int
    images: int
    image_tokens: int


class Clock:
    """Wall time and counts between two rows, within one attempt."""

    def __init__(self) -> None:
        self.steps = self.packs = self.tokens = self.images = self.image_tokens = self.hits = 0
        self.supervised = 0.0
        self.start = time.perf_counter()

    def add(self, packs: int, counts: StepCounts, hits: int = 0) -> None:
        """Count one step; `hits` of its images were in the feature cache."""
        self.steps += 1
        self.packs += packs
        self.tokens += counts.tokens
        self.images += counts.images
        self.image_tokens += counts.image_tokens
        self.supervised += counts.supervised
        self.hits += hits

    def rates(
        self, phases: Phases, *, pack_tokens: int | None, cached: bool = False
    ) -> dict[str, float]:
        """Return speeds since the start of this clock, and seconds per step of each phase.

        Checkpoints stand apart: their seconds are in no other column and in no speed. A phase that
        can't occur has no column (`collective_s` in one process), nor has the feature cache's hit
        rate unless `cached`.
        """
        seconds = phases.take()
        wall = max(time.perf_counter() - self.start - seconds["checkpoint"], 1e-9)
        row = {
            "tokens_per_s": self.tokens / wall,
            "supervised_tokens_per_s": self.supervised / wall,
            "image_tokens_per_s": self.image_tokens / wall,
            "images_per_s": self.images / wall,
            "step_s": wall / self.steps,
            "data_wait_s": seconds["data"] / self.steps,
        }
        for name in ("forward", "backward", "optimiser", "checkpoint"):
            row[f"{name}_s"] = seconds[name] / self.steps
        if seconds["collective"]:
            row["collective_s"] = seconds["collective"] / self.steps
        if pack_tokens:
            row["pack_fill"] = self.tokens / (self.packs * pack_tokens)
        if cached and self.images:
            row["feature_hit_rate"] = self.hits / self.images
        return row


def memory_mib(device: torch.device) -> float:
    """Return the most memory this process has held: the GPU's where it uses one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def cpu_seconds() -> float:
    """Return user and system CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
