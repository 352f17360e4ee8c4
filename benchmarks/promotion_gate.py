"""The gate of a promotion: 10 benchmarks x 5,000 questions of two versions, paired and corrected.

Seven benchmarks have scores of 0 or 1, one has five levels (VQA), one any number (CIDEr), one
questions that belong together in twos (MME). Both versions keep a record of every answer; each is
read, verified by its digest, paired, tested for non-inferiority and superiority at a margin, and
corrected by Holm: 20 tests. `judge` is a fresh process each time, without the start of Python and
its imports, which `start` says; peak memory is that of the whole process.

The verdicts must be the ones that the made-up answers were made for, or the script fails.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads

from components.registry import Registry, Version
from vila_core.jsonio import digest, dumps
from vila_core.store import Store, open_store, publish

ROOT = Path(__file__).parents[1]
BENCHMARKS = (
    "pope", "gqa", "scienceqa", "textvqa", "mmbench",
    "seed", "vizwiz", "vqav2", "coco", "mme",
)  # fmt: skip
GATES = """gates:
  - non_inferior: {margin: 0.02}
  - superior: {benchmarks: [pope, gqa, scienceqa, textvqa, mmbench, seed, vizwiz, vqav2, coco, mme]}
"""


def scores(name: str, draw: random.Random, gain: float) -> float:
    if name == "vqav2":
        return draw.choice((0.0, 0.3, 0.6, 0.9, 1.0))
    if name == "coco":
        return min(max(draw.gauss(0.6 + gain, 0.2), 0.0), 1.0)
    return float(draw.random() < 0.6 + gain)


def records(questions: int, seed: int, gain: float) -> Iterator[dict[str, Any]]:
    """Records as `vila eval` writes them, some 500 bytes each; `gain` is of the whole benchmark.

    Both versions answer alike but for one question in five.
    """
    own = random.Random(seed)
    for name in BENCHMARKS:
        shared = random.Random(name)
        for number in range(questions):
            alike = scores(name, shared, 0.0)
            changed = scores(name, own, 5 * gain)
            yield {
                "key": f"{name}/test/{number:08d}",
                "task": name,
                "version": "1.0",
                "type": "open",
                "shots": 0,
                "condition": "seen",
                "unit": f"image{number // 2:08d}" if name == "mme" else "",
                "prompt_digest": digest([name, number]),
                "answer": "a person who rides a wave on a white surfboard " * 3,
                "finished": True,
                "reference": "a surfer on a wave " * 3,
                "score": changed if own.random() < 0.2 else alike,
                "chance": 0.0,
                "seed": 0,
                "order": 0,
            }


def register(store: Store, folder: Path, questions: int, seed: int, gain: float) -> int:
    made = folder / f"version{seed}"
    made.mkdir(parents=True)
    with (made / "records.jsonl").open("w", encoding="utf-8") as file:
        for record in records(questions, seed, gain):
            file.write(dumps(record) + "\n")
    (made / "summary.json").write_text('{"metrics": {}}')
    results = publish(store, made, move=True)
    version = Version(
        model="big",
        number=0,
        artifact=results,
        run_id="r",
        key=str(seed),
        metrics={},
        evidence={},
        lineage={},
        results=results.sha256,
    )
    return Registry(store).register(version).number


ONE = """
import json
import resource
import sys
import time

start = time.perf_counter()
from vila_core.store import open_store
from vila_ops.registry.promote import judge_promotion
began = time.perf_counter(), time.process_time()
found = judge_promotion(open_store(sys.argv[1]), "big@2", "champion", gates=sys.argv[2], who="b")
print(json.dumps({
    "start_s": began[0] - start,
    "wall_s": time.perf_counter() - began[0],
    "cpu_s": time.process_time() - began[1],
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "verdicts": [[one.kind, one.passed] for one in found.verdicts],
    "tests": found.verdicts[0].details["tests"],
}))
"""


def judge(store: Path, gates: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", ONE, str(store), str(gates)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--questions", type=int, default=5000, help="of each benchmark")

    args = _harness.options(__doc__, add).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = open_store(folder / "store")
        first = register(store, folder, args.questions, 1, 0.0)
        register(store, folder, args.questions, 2, 0.04)
        Registry(store).move("big", "champion", first, why="benchmark")
        gates = folder / "gates.yaml"
        gates.write_text(GATES)
        taken = [judge(folder / "store", gates) for _ in range(args.repeats)]
    for one in taken:
        assert one["tests"] == 2 * len(BENCHMARKS), one
        better = sum(passed for kind, passed in one["verdicts"] if kind == "superior")
        assert all(passed for kind, passed in one["verdicts"] if kind == "non-inferior"), one
        assert better >= len(BENCHMARKS) - 1, one  # VQA's scores are as good in both
    result = {
        name: statistics.median(one[name] for one in taken)
        for name in ("wall_s", "cpu_s", "start_s", "peak_mib")
    }
    print(
        f"judge: {result['wall_s']:.2f} s (CPU {result['cpu_s']:.2f} s), start "
        f"{result['start_s']:.2f} s, peak memory {result['peak_mib']:.0f} MiB"
    )
    _harness.write(
        args.out,
        "promotion_gate",
        settings={"benchmarks": len(BENCHMARKS), "questions": args.questions},
        results={"judge": result, "each": taken},
        packages=("numpy",),
    )


if __name__ == "__main__":
    main()
