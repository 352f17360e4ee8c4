"""What a checkpoint costs: seconds of the steps that save, against those that don't.

A model of about 30 million parameters is trained by `fit` in one CPU thread: `background` copies
the tensors and writes them beside the next steps, `at once` writes them before the next step. A
step is timed from the end of its update to the end of the next, so that a save and the work that it
leaves to its thread count. The first save of a training is apart: it allocates the copies.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _harness import options, spread, write
from torch import nn

from vila_core.train.checkpoint import Checkpoints
from vila_core.train.config import TrainConfig
from vila_core.train.loop import fit
from vila_core.train.loss import next_token_loss
from vila_core.types import QUIET, Batch

VOCABULARY, WIDTH, LAYERS = 8192, 512, 7
Taken = dict[str, list[tuple[float, float]]]


class Model(nn.Module):
    """Embedding, feed-forward layers and a head: the tensors of a small language model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(WIDTH),
                nn.Linear(WIDTH, 6 * WIDTH),
                nn.GELU(),
                nn.Linear(6 * WIDTH, WIDTH),
            )
            for _ in range(LAYERS)
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.head(hidden)


class Source:
    """The same random pack in every step."""

    fingerprint = "random"

    def __init__(self, tokens: int) -> None:
        ids = torch.randint(VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(0))
        self.batch = Batch({"ids": ids}, float(tokens - 1), tokens)

    def initial_state(self) -> dict[str, Any]:
        return {}

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        while True:
            yield [self.batch], {}


class Times:
    """A report that keeps when each step's update ended: wall, and CPU of the training thread."""

    def __init__(self) -> None:
        self.at: dict[int, tuple[float, float]] = {}

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        self.at[done] = (time.perf_counter(), time.thread_time())

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def info(self, text: str) -> None:
        QUIET.info(text)


def loss(model: Any, batch: Batch) -> torch.Tensor:
    ids = batch.tensors["ids"]
    return next_token_loss(model(ids), ids, torch.ones(ids.shape))


def run(folder: Path, background: bool, steps: int, every: int, tokens: int) -> Taken:
    """Seconds (wall, CPU) per step by kind: `first save`, `save`, `other`."""
    times = Times()
    config = TrainConfig(
        steps=steps,
        lr=1e-4,
        save_every=every,
        save_in_background=background,
        log_every=1000,
    )
    fit(Model(), Source(tokens), config, loss_fn=loss, out_dir=folder, report=times)
    saved = Checkpoints(folder / "checkpoints", keep=2).latest()
    if saved is None or saved.step != steps:
        raise RuntimeError("the last checkpoint is missing or damaged")
    taken: Taken = {"first save": [], "save": [], "other": []}
    for step in range(2, steps):  # the first step allocates gradients and moments
        kind = "other" if step % every else "first save" if step == every else "save"
        (wall, cpu), (wall_after, cpu_after) = times.at[step], times.at[step + 1]
        taken[kind].append((wall_after - wall, cpu_after - cpu))
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write checkpoint.json."""

    def add(parser: Any) -> None:
        parser.add_argument("--steps", type=int, default=25, help="steps of one training")
        parser.add_argument("--save-every", type=int, default=5)
        parser.add_argument("--tokens", type=int, default=1024, help="tokens of one step")

    chosen = options(__doc__, add).parse_args(arguments)
    torch.set_num_threads(1)
    parameters = sum(parameter.numel() for parameter in Model().parameters())
    ways = {"background": True, "at once": False}
    taken: dict[str, Taken] = {}
    for _ in range(chosen.repeats):  # in turn, so that a busy moment hits both
        for name, background in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                found = run(
                    Path(folder), background, chosen.steps, chosen.save_every, chosen.tokens
                )
            for kind, seconds in found.items():
                taken.setdefault(name, {}).setdefault(kind, []).extend(seconds)
    results = {
        name: {
            kind: {
                clock: spread([one[number] for one in seconds], 1, "steps")
                for number, clock in enumerate(("wall", "cpu_of_thread"))
            }
            for kind, seconds in kinds.items()
        }
        for name, kinds in taken.items()
    }
    longer = {
        name: {
            kind: {
                clock: kinds[kind][clock]["median_s"] / kinds["other"][clock]["median_s"] - 1
                for clock in ("wall", "cpu_of_thread")
            }
            for kind in ("first save", "save")
        }
        for name, kinds in results.items()
    }
    for name, kinds in longer.items():
        for kind, more in kinds.items():
            print(
                f"{name}, {kind}: {100 * more['wall']:+.1f} % longer than the "
                f"{results[name]['other']['wall']['median_s']:.3f} s of other steps"
                f" ({100 * more['cpu_of_thread']:+.1f} % in CPU seconds of the training thread)"
            )
    write(
        chosen.out,
        "checkpoint",
        settings={
            "parameters": parameters,
            "checkpoint_bytes": 12 * parameters,
            "tokens_per_step": chosen.tokens,
            "steps": chosen.steps,
            "save_every": chosen.save_every,
            "repeats": chosen.repeats,
        },
        results=results,
        packages=("torch", "safetensors"),
        longer=longer,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
