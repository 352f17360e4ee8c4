"""COYO's best rows: our pass over the columns of scores against sorting all scores at once.

`ours` is `vila_core.data.readers.ranking.best_rows`, `sorted` reads all scores into memory and
sorts them. Each runs in a process of its own, so that its greatest resident memory is known. Both
must take the same rows, or the script fails. The scores are normal with COYO's means, to float32's
precision.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import _harness  # first: sets the number of threads
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vila_core.data.readers.files import corpus_files
from vila_core.data.readers.ranking import best_rows

COLUMNS = {"clip_similarity_vitb32": 0.291, "clip_similarity_vitl14": 0.255}
SPREAD = 0.04
SHARE = 25 / 747
Chosen = dict[str, np.ndarray]


def write(folder: Path, rows: int, files: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(files):
        scores = {
            name: rng.normal(mean, SPREAD, rows // files).astype(np.float32)
            for name, mean in COLUMNS.items()
        }
        pq.write_table(pa.table(scores), folder / f"part-{number:05d}.parquet")


def ours(folder: Path, count: int) -> Chosen:
    return best_rows(corpus_files(folder), list(COLUMNS), count)


def by_sorting(folder: Path, count: int) -> Chosen:
    files = corpus_files(folder)
    tables = [pq.read_table(file.path, columns=list(COLUMNS)) for file in files]
    scores = [
        np.sum([table[name].to_numpy().astype(np.float64) for name in COLUMNS], axis=0)
        for table in tables
    ]
    order = np.argsort(-np.concatenate(scores), kind="stable")[:count]
    ends = np.cumsum([len(one) for one in scores])
    which = np.searchsorted(ends, order, side="right")
    starts = ends - [len(one) for one in scores]
    return {
        file.shard: np.sort(order[which == number] - starts[number])
        for number, file in enumerate(files)
    }


WAYS: dict[str, Callable[[Path, int], Chosen]] = {"ours": ours, "sorted": by_sorting}


def alone(way: str, folder: Path, count: int) -> tuple[float, float, int, str]:
    """Wall and CPU seconds, greatest resident bytes, digest of the rows. In a fresh process."""
    wall, cpu = time.perf_counter(), time.process_time()
    chosen = WAYS[way](folder, count)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    rows = hashlib.sha256()
    for shard in sorted(chosen):
        rows.update(shard.encode() + chosen[shard].astype(np.int64).tobytes())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return *spent, memory, rows.hexdigest()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=40_000_000, help="rows of the corpus")
    parser.add_argument("--files", type=int, default=10, help="files that they lie in")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    rows = options.rows // options.files * options.files
    count = max(int(rows * SHARE), 1)
    runs: dict[str, list[tuple[float, float, int, str]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows, options.files)
        for _ in range(options.repeats):
            for name, found in runs.items():
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    found.append(pool.apply(alone, (name, Path(folder), count)))
    if len({run[3] for found in runs.values() for run in found}) != 1:
        print("error: the two ways did not take the same rows", file=sys.stderr)
        return 1
    results = {}
    for name, found in runs.items():
        results[name] = {
            "wall": _harness.spread([run[0] for run in found], rows, "rows"),
            "cpu": _harness.spread([run[1] for run in found], rows, "rows"),
            "max_resident_bytes": max(run[2] for run in found),
        }
        print(
            f"{name:<7} {results[name]['wall']['rows_per_s'] / 1e6:6.2f} M rows/s by wall time, "
            f"{results[name]['max_resident_bytes'] / 2**20:6.0f} MiB"
        )
    _harness.write(
        options.out,
        "ranking",
        settings={
            "rows": rows,
            "files": options.files,
            "chosen": count,
            "repeats": options.repeats,
        },
        results=results,
        packages=("pyarrow", "numpy"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
