"""A small model and source with everything the loop must keep: dropout, a frozen part, groups.

Run as a script, it trains in a process of its own (to be killed, or as one of several ranks).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vila_core.train.config import TrainConfig
from vila_core.train.loop import FitResult, fit
from vila_core.train.loss import next_token_loss
from vila_core.types import QUIET, Batch, Reporter

VOCABULARY = 32


class TinyModel(nn.Module):
    """Predicts the next of 32 words from the present one."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.embedding.requires_grad_(False)
        self.projector = nn.Linear(16, 24)
        self.norm = nn.LayerNorm(24)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(24, VOCABULARY)
        self.register_buffer("scale", torch.tensor(1 / 3))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.projector(self.embedding(input_ids))) * self.scale
        return self.head(self.dropout(self.norm(hidden)))


class TinySource:
    """Packs of uneven length over a fixed rule; the state is the number of packs drawn."""

    def __init__(
        self, packs_per_step: int = 1, *, rank: int = 0, world: int = 1, poison: int | None = None
    ) -> None:
        self.packs_per_step, self.poison = packs_per_step, poison
        self.rank, self.world = rank, world
        self.fingerprint = "tiny"

    def initial_state(self) -> dict[str, Any]:
        return {"drawn": 0}

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        drawn = state["drawn"]
        while True:
            mine = range(drawn + self.rank, drawn + self.packs_per_step, self.world)
            drawn += self.packs_per_step
            yield [self.pack(number) for number in mine], {"drawn": drawn}

    def pack(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        length = int(torch.randint(12, 24 + 1, (1,), generator=generator))
        words = [int(torch.randint(VOCABULARY, (1,), generator=generator))]
        while len(words) < length:
            words.append((words[-1] * 3 + 1) % VOCABULARY)
        ids = torch.tensor([words])
        labels = ids.clone()
        labels[:, : 1 + number % 5] = -100
        weights = torch.ones(ids.shape)
        if number == self.poison:
            weights[0, -1] = torch.nan
        tensors = {"input_ids": ids, "labels": labels, "weights": weights}
        supervised = float((labels[:, 1:] != -100).sum())
        return Batch(tensors, supervised, length, 1, (f"tiny/00000/{number:06d}",), 4)


def tiny_loss(model: Any, batch: Batch) -> torch.Tensor:
    logits = model(batch.tensors["input_ids"])
    return next_token_loss(logits, batch.tensors["labels"], batch.tensors["weights"])


def settings(**changes: Any) -> TrainConfig:
    values = {
        "steps": 12,
        "lr": 0.02,
        "lr_projector": 0.01,
        "weight_decay": 0.1,
        "warmup_steps": 3,
        "min_lr_ratio": 0.1,
        "clip": 0.5,
        "save_every": 5,
        "log_every": 4,
    }
    return TrainConfig.model_validate(values | changes)


class Recorder:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.lines: list[str] = []
        self.files: dict[str, str] = {}

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        self.losses.append(values["loss"])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append((step, dict(values)))

    def info(self, text: str) -> None:
        self.lines.append(text)

    def attach(self, path: Path, name: str) -> None:
        self.files[name] = path.read_text(encoding="utf-8")


def train(
    out_dir: Path,
    config: TrainConfig,
    *,
    source: TinySource | None = None,
    report: Reporter = QUIET,
) -> tuple[TinyModel, FitResult]:
    model = TinyModel()
    source = source or TinySource(config.packs_per_step)
    result = fit(
        model, source, config, loss_fn=tiny_loss, out_dir=out_dir, report=report, pack_tokens=24
    )
    return model, result


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class _Lines(Recorder):
    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        super().progress(done, total, unit, **values)
        print(done, flush=True)


def main(out_dir: Path, runs: list[dict[str, Any]]) -> None:
    """Train each of `runs` in a folder of its own; rank 0 writes losses and weights as JSON."""
    import os

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    for number, changes in enumerate(runs):
        config = settings(**changes)
        source = TinySource(config.packs_per_step, rank=rank, world=world)
        model = TinyModel(dropout=0.0 if world > 1 else 0.1)
        report = _Lines()
        folder = out_dir / str(number)
        fit(model, source, config, loss_fn=tiny_loss, out_dir=folder, report=report)
        if rank == 0:
            weights = {name: value.tolist() for name, value in model.state_dict().items()}
            text = json.dumps({"losses": report.losses, "weights": weights})
            (folder / "result.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
