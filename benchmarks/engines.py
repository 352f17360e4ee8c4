"""One training step through DeepSpeed's ZeRO 0 against the plain engine.

The same 6.0 M-parameter VLM, packs, loss and settings as `train_throughput.py`, one pack per step,
fp32 and bf16, one process. Each engine has a copy of the model; the steps are taken in turn. After
the first round both must hold the same weights to the bit, or the script fails.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import _harness  # first: sets the number of threads
import torch
from train_throughput import PACK_TOKENS, make_models, make_samples, packed

from vila_core.train.config import TrainConfig
from vila_core.train.engine import create_engine
from vila_core.train.loss import vila_loss


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--samples", type=int, default=80)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write engines.json."""
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    batches = packed(make_samples(options.samples, seed=0), PACK_TOKENS)
    tokens = sum(batch.num_tokens for batch in batches)
    engines: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        for name in ("plain", "deepspeed"):
            settings: dict[str, Any] = {"engine": name, "precision": precision, "device": "cpu"}
            config = TrainConfig(steps=len(batches), lr=1e-4, **settings)
            models[f"{precision}, {name}"] = make_models("pretrain")[0]
            engines[f"{precision}, {name}"] = create_engine(models[f"{precision}, {name}"], config)

    def train(engine: Any) -> None:
        for batch in batches:
            engine.backward(batch, vila_loss, scale=1.0 / batch.supervised, last=True)
            engine.update(1.0)

    ways = {name: lambda engine=engine: train(engine) for name, engine in engines.items()}
    for way in ways.values():
        way()
    for precision in ("fp32", "bf16"):
        pairs = zip(
            models[f"{precision}, plain"].parameters(),
            models[f"{precision}, deepspeed"].parameters(),
            strict=True,
        )
        if not all(torch.equal(one, other) for one, other in pairs):
            print(f"error: the engines' weights differ in {precision}", file=sys.stderr)
            return 1
    taken = _harness.in_turn(ways, options.repeats)
    results = {name: _harness.both(times, tokens, "useful_tokens") for name, times in taken.items()}
    ratios = {
        precision: statistics.median(
            other.cpu / one.cpu
            for one, other in zip(
                taken[f"{precision}, plain"], taken[f"{precision}, deepspeed"], strict=True
            )
        )
        for precision in ("fp32", "bf16")
    }
    for name, result in results.items():
        cpu = result["cpu"]
        print(f"{name:<16} {1e3 * cpu['median_s'] / len(batches):7.1f} ms of CPU per step")
    for precision, ratio in ratios.items():
        print(f"deepspeed / plain, {precision}: {ratio:.3f}")
    _harness.write(
        options.out,
        "engines",
        settings={"packs": len(batches), "tokens": tokens, "repeats": options.repeats},
        results=results,
        packages=("torch", "deepspeed", "transformers"),
        ratios_cpu=ratios,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
