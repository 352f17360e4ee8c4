"""Preparing corpora: samples per second and core as they are and re-encoded, index, memory.

`pairs, 48 px` are captions with a 48 x 48 JPEG each, written into shards as they are. `pairs, 1024
to 336 px` are 1024 x 768 JPEGs with a photo's spectrum, re-encoded to a shorter side of 336. Both
go the whole way of the stage in one process: read, check, count tokens, pack, write, hash, journal.
`two workers` is the first with two worker processes, by wall time. `index` adds rows to an index
and saves it. `memory` is the peak of the process that prepares text-only records, by their number.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import decode
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vila_core.config import validate
from vila_core.data import pool
from vila_core.data.index import IndexBuilder
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare

WORDS = ("a", "red", "square", "over", "the", "small", "blue", "circle", "and", "two", "green")
_PEAK = """
import json, resource, sys
from pathlib import Path
from vila_core.config import validate
from vila_core.stages import prepare
prepare.run(validate(prepare.Config, json.loads(sys.argv[1]), where="b", path="p"), {},
            Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def small_jpeg(rng: np.random.Generator) -> bytes:
    """A 48 x 48 JPEG of coarse colours."""
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def write_pairs(folder: Path, count: int, make: Callable[[np.random.Generator], bytes]) -> Path:
    """COYO's layout: a parquet table, and the images beside it."""
    rng = np.random.default_rng(0)
    files = [make(rng) for _ in range(32)]
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        (folder / "images" / f"{number}.jpg").write_bytes(files[number % len(files)])
    texts = [" ".join(rng.choice(WORDS, 20)) for _ in range(count)]
    table = pa.table({"id": list(range(count)), "text": texts})
    pq.write_table(table, folder / "part-00000.parquet")
    return folder


def write_lines(path: Path, count: int) -> Path:
    """FLAN's layout, one record per line."""
    rng = np.random.default_rng(0)
    answers = [" ".join(rng.choice(WORDS, 12)) for _ in range(1000)]
    with path.open("w") as file:
        for number in range(count):
            row = {"inputs": f"q {number}", "targets": answers[number % 1000]}
            file.write(json.dumps(row) + "\n")
    return path


def settings(folder: Path, name: str, form: str, path: Path, **corpus: Any) -> dict[str, Any]:
    """A prepare section for one corpus, in one process."""
    described = {"name": name, "format": form, "path": str(path), "template": "plain", **corpus}
    tokenizer = str(folder / "tokenizer")
    return {"source": "corpora", "tokenizer": tokenizer, "corpora": [described], "workers": 1}


def run(values: dict[str, Any]) -> None:
    """Prepare into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as out:
        prepare.run(validate(prepare.Config, values, where="b", path="p"), {}, Path(out))


def index(count: int) -> None:
    """Build and save an index of captioned images."""
    builder = IndexBuilder()
    digest = "ab" * 32
    for number in range(count):
        builder.add(
            key_shard="00000",
            images=iter(((1024, 31_000),)),
            digest=digest,
            key_index=number,
            shard=0,
            offset=number * 40_000,
            size=32_000,
            json_size=400,
            json_crc32=number,
            num_text_tokens=30,
            num_supervised=29,
            num_images=1,
        )
    with tempfile.TemporaryDirectory() as out:
        builder.build().save(Path(out) / "index.npz")


def peak_bytes(values: dict[str, Any]) -> int:
    """Peak memory of a process that prepares."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", _PEAK, json.dumps(values), out]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", type=int, default=20_000, help="pairs of 48 px")
    parser.add_argument("--large", type=int, default=600, help="pairs of 1024 px")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the index")
    parser.add_argument("--memory", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        write_tokenizer(folder / "tokenizer")
        small = settings(
            folder, "small", "coyo", write_pairs(folder / "small", options.small, small_jpeg)
        )
        large = settings(
            folder,
            "large",
            "coyo",
            write_pairs(folder / "large", options.large, decode.make_jpeg),
            reencode={"side": 336},
        )
        counts = {"pairs, 48 px": options.small, "pairs, 1024 to 336 px": options.large}
        run({**small, "corpora": small["corpora"]})  # imports and files are warm from here on
        ways = {"pairs, 48 px": partial(run, small), "pairs, 1024 to 336 px": partial(run, large)}
        for name, taken in _harness.in_turn(ways, options.repeats).items():
            results[name] = _harness.both(taken, counts[name], "samples")
        pool._ALONE_SECONDS = 0.0
        spread = _harness.in_turn(
            {"two workers": partial(run, {**small, "workers": 2})}, options.repeats
        )["two workers"]
        wall = [one.wall for one in spread]
        results["pairs, 48 px, two workers"] = {
            "wall": _harness.spread(wall, options.small, "samples")
        }
        taken = _harness.in_turn({"index": partial(index, options.rows)}, options.repeats)["index"]
        results["index"] = _harness.both(taken, options.rows, "samples")
        memory = {}
        for count in options.memory:
            lines = write_lines(folder / f"lines-{count}.jsonl", count)
            values = settings(folder, "lines", "flan", lines)
            memory[str(count)] = peak_bytes({**values, "limits": {"max_tokens": 4096}})
            print(f"memory, {count:>9,} records {memory[str(count)] / 2**20:12,.0f} MiB")
    for name, result in results.items():
        by = "cpu" if "cpu" in result else "wall"
        print(f"{name:<30}{result[by]['samples_per_s']:12,.0f} samples/s by {by} time")
    _harness.write(
        options.out,
        "prepare",
        settings={name: getattr(options, name) for name in ("small", "large", "rows", "repeats")},
        results=results,
        packages=("numpy", "pillow", "pyarrow", "tokenizers"),
        peak_bytes=memory,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
