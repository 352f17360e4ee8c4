"""Raw reads: samples by index in random order, against webdataset's sequential reader.

Both read the same shards, written by our `ShardWriter`: one 31 kB image and a caption per sample.
`by index, bytes` is one `pread` per sample at the place that the index names, as webdataset's
reader gives bytes. `by index, checked` is `Corpus.read`, which also parses the sample and compares
its sha256 with the index. Files are in the operating system's cache.

Each way must give every sample's bytes, or the script fails.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import _harness  # first: sets the number of threads
import numpy as np
import webdataset as wds
from PIL import Image as PilImage

from vila_core.data.corpus import Corpus
from vila_core.data.encode import Counts
from vila_core.data.sample import Image, Text, make_sample
from vila_core.data.shards import ShardLimits, ShardWriter

IMAGE_BYTES, SHARD_SAMPLES = 31_000, 500
Found = tuple[int, int]


def write_corpus(folder: Path, count: int) -> Corpus:
    """Captions with images of IMAGE_BYTES."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    PilImage.new("RGB", (16, 16)).save(file, "JPEG")
    start = file.getvalue()  # nobody decodes the images here: noise may follow
    limits = ShardLimits(samples=SHARD_SAMPLES)
    with ShardWriter(folder / "bench", "bench", template="plain", limits=limits) as writer:
        for number in range(count):
            image = start + rng.bytes(IMAGE_BYTES - len(start))
            text = f"a caption of some twenty words, the {number}th of its kind. " * 2
            parts = [Image(0), Text(text)]
            sample = make_sample(f"bench/00000/{number:06d}", "caption", parts, [image])
            writer.add(sample, Counts(30, 30, 1))
        writer.finish()
    return Corpus.open(folder / "bench")


def by_webdataset(paths: Sequence[str]) -> Found:
    """Samples, and bytes of their images."""
    samples = size = 0
    for row in wds.WebDataset(list(paths), shardshuffle=False):  # pyright: ignore
        samples, size = samples + 1, size + len(row["000.jpg"])
    return samples, size


def by_index(corpus: Corpus, order: Sequence[int]) -> Found:
    index, samples, size = corpus.index, 0, 0
    for number in order:
        data = corpus.read_bytes(number)
        first = int(index.image_start[number])
        start, length = int(index.image_offset[first]), int(index.image_size[first])
        samples, size = samples + 1, size + len(data[start : start + length])
    return samples, size


def checked(corpus: Corpus, order: Sequence[int]) -> Found:
    samples = size = 0
    for number in order:
        samples, size = samples + 1, size + len(corpus.read(number).images[0])
    return samples, size


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=4000, help="samples in the shards")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder), options.samples)
        order = np.random.default_rng(1).permutation(len(corpus)).tolist()
        paths = [str(path) for path in sorted((Path(folder) / "bench").glob("*.tar"))]
        ways: dict[str, Callable[[], Found]] = {
            "by index, bytes": lambda: by_index(corpus, order),
            "by index, checked": lambda: checked(corpus, order),
            "webdataset": lambda: by_webdataset(paths),
        }
        for way in ways.values():
            way()  # imports and the file cache
        taken = _harness.in_turn(ways, options.repeats)
    results = {}
    for name, runs in taken.items():
        if any(run.value != (len(order), len(order) * IMAGE_BYTES) for run in runs):
            print(f"error: '{name}' did not give every sample", file=sys.stderr)
            return 1
        results[name] = _harness.both(runs, len(order), "samples")
        cpu = results[name]["cpu"]
        print(
            f"{name:<18} {cpu['samples_per_s']:8.0f} samples per CPU second"
            f"  ({cpu['min_s']:.3f} to {cpu['max_s']:.3f} s for {len(order)})"
        )
    rate = {name: result["cpu"]["samples_per_s"] for name, result in results.items()}
    speedup = {name: rate[name] / rate["webdataset"] for name in rate if name != "webdataset"}
    print(", ".join(f"{name}: {value:.1f} times webdataset" for name, value in speedup.items()))
    _harness.write(
        options.out,
        "index_reads",
        settings={
            "samples": len(order),
            "image_bytes": IMAGE_BYTES,
            "shards": len(paths),
            "repeats": options.repeats,
        },
        results=results,
        packages=("webdataset", "numpy"),
        speedup_cpu=speedup,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
