"""Deduplication: all pairs of look-alikes among a million pHashes, and the judge's whole work.

The hashes are random, every tenth but for up to 3 bits a copy of an earlier one: which of them
repeat what is known. `look-up` finds them with `hamming.leaders`; `comparing all` does the same by
comparing each hash with all that were kept, over the first few thousand hashes, in numpy. `judge`
is what prepare adds to a sample in its main process: signatures of samples with one image, in the
chunks in which workers send them, with an evaluation set of texts and images.

Each copy must be found, and the two ways must agree, or the script fails.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import _harness  # first: sets the number of threads
import numpy as np

from vila_core.data.dedupe import DedupeConfig, EvalItem, Judge, Signature
from vila_core.data.dedupe.hamming import leaders

COPIES, CHUNK, WORDS = 10, 32, 40


@dataclass(frozen=True)
class Hashes:
    """Hashes (N,) uint64, and which of them (N,) bool are copies of an earlier one."""

    values: np.ndarray
    copy: np.ndarray


def make_hashes(count: int, distance: int) -> Hashes:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, count, dtype=np.uint64)
    copy = np.zeros(count, dtype=bool)
    copy[COPIES::COPIES] = True
    place = np.flatnonzero(copy)
    original = (rng.random(len(place)) * place).astype(np.int64) // COPIES * COPIES + 1
    original = np.minimum(original, place - COPIES + 1)  # never a copy, always earlier
    values[place] = values[original]
    for _ in range(distance):
        bit = np.uint64(1) << rng.integers(0, 64, len(place)).astype(np.uint64)
        values[place] ^= np.where(rng.random(len(place)) < 0.5, bit, np.uint64(0))
    return Hashes(values, copy)


def comparing_all(hashes: np.ndarray, distance: int) -> np.ndarray:
    kept, places, found = np.zeros_like(hashes), np.zeros(len(hashes), dtype=np.int64), []
    count = 0
    for place, value in enumerate(hashes):
        near = np.bitwise_count(kept[:count] ^ value) <= distance
        first = int(near.argmax()) if count else 0
        if count and near[first]:
            found.append(int(places[first]))
            continue
        kept[count], places[count] = value, place
        count += 1
        found.append(place)
    return np.array(found)


def signatures(hashes: np.ndarray) -> list[Signature]:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2**64, (len(hashes), 3), dtype=np.uint64)
    grams = np.sort(rng.integers(0, 2**64, (256, WORDS), dtype=np.uint64), axis=1)
    return [
        Signature(int(content), int(text), row[2:], hashes[n : n + 1], grams[n % 256])
        for n, (row, (content, text, _)) in enumerate(zip(rows, rows.tolist(), strict=True))
    ]


def judged(config: DedupeConfig, made: Sequence[Signature]) -> int:
    """Returns how many were admitted: all, as their texts differ."""
    rng, judge = np.random.default_rng(2), Judge(config)
    items = [
        EvalItem(str(n), (" ".join(map(str, rng.integers(0, 9999, WORDS))),), ())
        for n in range(2000)
    ]
    judge.learn_eval("bench", items)
    for start in range(0, len(made), CHUNK):
        some = made[start : start + CHUNK]
        judge.check_many([f"c/00000/{start + n:06d}" for n in range(len(some))], some)
    return len(judge)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hashes", type=int, default=1_000_000, help="hashes to look up")
    parser.add_argument("--compared", type=int, default=20_000, help="of them, compared with all")
    parser.add_argument("--judged", type=int, default=100_000, help="samples for the judge")
    parser.add_argument("--distance", type=int, default=3, help="bits that may differ")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    distance: int = options.distance
    config = DedupeConfig(distance=distance)
    hashes = make_hashes(options.hashes, distance)
    few = hashes.values[: options.compared]
    if leaders(few, distance).tolist() != comparing_all(few, distance).tolist():
        print("error: the look-up and comparing all disagree", file=sys.stderr)
        return 1

    def look_up() -> int:
        found = leaders(hashes.values, distance)
        missed = hashes.copy & (found == np.arange(len(found)))
        return -1 if missed.any() else int((found != np.arange(len(found))).sum())

    made = signatures(hashes.values[: options.judged])
    counts = {"look-up": options.hashes, "comparing all": len(few), "judge": len(made)}
    ways: dict[str, Callable[[], int]] = {
        "look-up": look_up,
        "comparing all": lambda: len(comparing_all(few, distance)),
        "judge": lambda: judged(config, made),
    }
    taken = _harness.in_turn(ways, options.repeats)
    if any(run.value < 0 for run in taken["look-up"]):
        print("error: a copy was not found", file=sys.stderr)
        return 1
    if any(run.value != len(made) for run in taken["judge"]):
        print("error: the judge refused a sample that repeats none", file=sys.stderr)
        return 1
    results = {}
    for name, runs in taken.items():
        unit = "samples" if name == "judge" else "hashes"
        results[name] = _harness.both(runs, counts[name], unit)
        cpu = results[name]["cpu"]
        print(
            f"{name:<14} {cpu['median_s']:7.2f} CPU s ({cpu['min_s']:.2f} to {cpu['max_s']:.2f})"
            f" for {counts[name]:,} {unit}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the whole process: {peak:.0f} MiB")
    _harness.write(
        options.out,
        "dedupe",
        settings={
            "hashes": options.hashes,
            "copies": int(hashes.copy.sum()),
            "compared": len(few),
            "judged": len(made),
            "distance": distance,
            "repeats": options.repeats,
        },
        results=results,
        packages=("numpy", "pillow"),
        peak_mib=peak,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
