"""Training steps on shards streamed from an S3 server of this machine, against a local folder.

`fit` trains the 6.0 M-parameter VLM of `train_throughput.py` (projector and language model) through
the loader of training: one pack of 4,096 tokens per step, one worker, captions with a 30 kB JPEG.
The shard cache starts empty each time and holds a third of the corpus, so that shards come and go;
two shards are shuffled at a time. Data wait is the share of the step that the loop waits for a
batch; the first step, which waits for the first shards and the worker's start, stands apart.

The server is Ceph's RGW where it is installed, else moto's. Both ways must give the same losses to
the bit, and the cache must stay in its budget, or the script fails.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import numpy as np
import torch
from PIL import Image as PilImage
from train_throughput import IMAGE_ID, PACK_IMAGES, PACK_TOKENS, VISUAL, make_models

sys.path.insert(0, str(Path(__file__).parents[1]))  # the servers are those of the tests
from tests import ceph_server, s3_server
from vila_core.data.cache import ShardCache
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.loader import PackLoader
from vila_core.data.sample import Image, Text, make_sample
from vila_core.data.shards import ShardLimits, ShardWriter
from vila_core.images import decode
from vila_core.miniature.words import build_tokenizer
from vila_core.store import open_store
from vila_core.train.config import TrainConfig
from vila_core.train.loop import fit
from vila_core.train.loss import vila_loss

SHARD_SAMPLES, SHUFFLED = 100, 2
WORDS = "red circle top left . blue square bottom right . a green cross and two white triangles ."


@dataclass
class Rows:
    """A report that keeps the metrics and the losses of every step."""

    rows: list[Mapping[str, float]] = field(default_factory=list)

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append(values)

    def info(self, text: str) -> None:
        pass

    def attach(self, path: Path, name: str) -> None:
        pass


def transform(data: bytes) -> torch.Tensor:
    """The (3, 48, 48) pixels that the model takes."""
    pixels = np.asarray(decode(data, at_least=48).resize((48, 48)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def jpegs(count: int) -> list[bytes]:
    """Images of about 30 kB."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (180, 240, 3), dtype=np.uint8)
        PilImage.fromarray(pixels).save(file, "JPEG", quality=70)
        made.append(file.getvalue())
    return made


def write_corpus(folder: Path, count: int, encoder: Encoder) -> Path:
    """Captions in the shards and with the index of a prepared corpus."""
    images, limits = jpegs(50), ShardLimits(samples=SHARD_SAMPLES)
    with ShardWriter(folder / "bench", "bench", template="miniature", limits=limits) as writer:
        for number in range(count):
            parts = [Image(0), Text(WORDS * (1 + number % 3))]
            shown = images[number % len(images)] + str(number).encode()  # no two are the same
            sample = make_sample(f"bench/00000/{number:06d}", "caption", parts, [shown])
            writer.add(sample, encoder.count(sample))
        writer.finish()
    return folder / "bench"


def train(corpus: Corpus, encoder: Encoder, steps: int, folder: Path) -> Rows:
    """Train and return the rows of all steps."""
    source = PackLoader(
        {"bench": corpus},
        {"bench": 1.0},
        encoder,
        transform,
        pack_tokens=PACK_TOKENS,
        pack_images=PACK_IMAGES,
        packs_per_step=1,
        window=SHARD_SAMPLES,
        shuffle_shards=SHUFFLED,
        num_workers=1,
    )
    report = Rows()
    config = TrainConfig(steps=steps, lr=1e-4, device="cpu", save_every=0, log_every=1)
    model = make_models("pretrain")[0]
    fit(model, source, config, loss_fn=vila_loss, out_dir=folder, report=report)
    return report


def shares(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Data wait as a share of the steps' time, after the first step and with it."""

    def share(some: Sequence[Mapping[str, float]]) -> float:
        return sum(row["data_wait_s"] for row in some) / sum(row["step_s"] for row in some)

    return {
        "data_wait_share": share(rows[1:]),
        "data_wait_share_with_first_step": share(rows),
        "first_step_wait_s": rows[0]["data_wait_s"],
        "step_s": statistics.median(row["step_s"] for row in rows[1:]),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=2400, help="samples of the corpus")
    parser.add_argument("--steps", type=int, default=30, help="training steps of a measurement")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    torch.set_num_threads(1)
    encoder = Encoder(build_tokenizer(), "miniature", IMAGE_ID, VISUAL)
    real = not ceph_server.missing()
    server = ceph_server if real else s3_server
    with tempfile.TemporaryDirectory() as scratch, server.running() as environment:
        os.environ.update(environment)
        folder = write_corpus(Path(scratch), options.samples, encoder)
        store = open_store(f"s3://{s3_server.BUCKET}/{uuid.uuid4().hex}")
        for path in sorted(folder.iterdir()):
            store.upload(path.name, path)
        sizes = [path.stat().st_size for path in folder.glob("*.tar")]
        budget = max(sum(sizes) // 3, int(2 * SHUFFLED * max(sizes) / 0.9) + 1)
        os.environ["VILA_CACHE_SIZE"] = str(budget)

        def run(open_corpus: Callable[[], Corpus]) -> Rows:
            with tempfile.TemporaryDirectory(dir=scratch) as work:
                os.environ["VILA_CACHE"] = work
                rows = train(open_corpus(), encoder, options.steps, Path(work) / "out")
                cache = ShardCache.from_environment()
                if cache.folder.exists() and cache.used() > budget:
                    raise SystemExit(f"error: the cache holds {cache.used()} of {budget} bytes")
                return rows

        taken = _harness.in_turn(
            {
                "folder": lambda: run(lambda: Corpus.open(folder)),
                "streamed": lambda: run(lambda: Corpus.open(store.uri)),
            },
            options.repeats,
        )
    losses = {
        tuple(row["loss"] for row in one.value.rows) for runs in taken.values() for one in runs
    }
    if len(losses) != 1:
        print("error: the losses differ between the ways", file=sys.stderr)
        return 1
    results: dict[str, Any] = {}
    for name, runs in taken.items():
        found = [shares(one.value.rows) for one in runs]
        results[name] = {
            key: {
                "median": statistics.median(one[key] for one in found),
                "min": min(one[key] for one in found),
                "max": max(one[key] for one in found),
            }
            for key in found[0]
        }
        wait, first = results[name]["data_wait_share"], results[name]["first_step_wait_s"]
        print(
            f"{name:<9} data wait {wait['median']:.3%} of a step ({wait['min']:.3%} to "
            f"{wait['max']:.3%}), first step {first['median']:.2f} s, "
            f"step {results[name]['step_s']['median']:.3f} s"
        )
    _harness.write(
        options.out,
        "streaming",
        settings={
            "server": "Ceph RGW" if real else "moto",
            "samples": options.samples,
            "steps": options.steps,
            "shards": len(sizes),
            "corpus_bytes": sum(sizes),
            "cache_bytes": budget,
            "shuffle_shards": SHUFFLED,
            "repeats": options.repeats,
        },
        results=results,
        packages=("torch", "minio"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
