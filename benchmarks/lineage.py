"""`vila lineage` in a store of thousands of runs: a directory.

Each run has ten tasks as the quickstart has them, with the digests of 110 source files in each
attempt, as real records have; all share their data, each tenth run takes four tasks from the cache,
and each run registers a version. `first` makes the index (once in a store's life); `open` is a
fresh reader of it, `again` one that is kept, as the dashboard's. `back` goes from a version to its
data, `forward` from the data to what is made of it, `digest` finds one by twelve digits,
`evaluated` is what a promotion asks a fresh reader: where two models were evaluated; `process` is
the whole command.

Every answer must be the one that was written, or the script fails.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import psutil

from vila_core.store import Store, open_store
from vila_ops.lineage import LineageIndex, find_one, trace_back, trace_forward
from vila_ops.lineage.graph import MOST_FROM_ONE
from vila_ops.lineage.index import KEY
from vila_ops.registry.evaluated import evaluations_of_models

ROOT = Path(__file__).parents[1]
TASKS: Mapping[str, Sequence[str]] = {
    "vision-tower": (),
    "language-model": (),
    "prepare": (),
    "align": ("prepare", "vision-tower", "language-model"),
    "pretrain": ("prepare", "align"),
    "sft": ("prepare", "pretrain"),
    "evaluate": ("prepare", "sft"),
    "evaluate-base": ("prepare", "language-model"),
    "evaluate-pretrain": ("prepare", "pretrain"),
    "register": ("sft", "evaluate", "evaluate-base"),
}
NAMES = {"prepare": "data", "evaluate": "results", "evaluate-base": "baseline"}
FILES = {f"vila_core/part/module_{number:03d}.py": f"{number:064x}" for number in range(110)}


def sha(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


def made(number: int, task: str) -> str:
    """The artifact of a task; all runs have the same data."""
    return sha("data") if task == "prepare" else sha(origin(number, task), task)


def origin(number: int, task: str) -> int:
    """The run that made a task's result: of each tenth run, for the first tasks, the one before."""
    cached = number % 10 == 9 and task in ("align", "pretrain", "vision-tower", "language-model")
    return number - 1 if cached else number


def run_id(number: int) -> str:
    return f"quickstart-1129-{number:06d}-{number:04x}"


def write_run(folder: Path, number: int) -> None:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(minutes=number)
    at = start.isoformat(timespec="milliseconds")

    def put(name: str, value: object) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    lead = f"runs/{run_id(number)}"
    about = {
        "run_id": run_id(number),
        "created_at": at,
        "name": "quickstart",
        "recipe": "quickstart",
    }
    about |= {"config": {}, "config_digest": sha("config", number), "code_digest": sha("code")}
    about |= {"runner": "subprocess", "tasks": [[task, task] for task in TASKS]}
    put(f"{lead}/run.json", about)
    put(f"{lead}/end.json", {"status": "succeeded", "ended_at": at, "error": None})
    tasks = {}
    for task, needs in TASKS.items():
        source = origin(number, task)
        key = sha("key", source, task)
        inputs = {NAMES.get(one, one): made(number, one) for one in needs}
        if task == "evaluate":
            inputs["model"] = inputs.pop("sft")
        config = {"mixture": {"coyo": 1.0}, "train": {"lr": 0.001, "seed": number}}
        parts = {"stage": task, "config": config, "inputs": inputs}
        parts |= {"code": {"digest": sha("code", task), "files": FILES}}
        outputs = {NAMES.get(task, "model"): {"sha256": made(number, task), "uri": ""}}
        place = f"{lead}/tasks/{task}/001"
        put(
            f"{place}/started.json",
            {"started_at": at, "stage": task, "key": key, "key_parts": parts, "config": config},
        )
        cached = {"run_id": run_id(source)} if source != number else None
        put(
            f"{place}/finished.json",
            {"status": "cached" if cached else "succeeded", "exit_code": 0, "duration_s": 61.5}
            | {
                "outputs": outputs,
                "metrics": {"loss": 2.25},
                "ended_at": at,
                "cached_from": cached,
            },
        )
        tasks[task] = {"stage": task, "key": key, "inputs": inputs}
        tasks[task] |= {"config_digest": sha("c", number, task), "code_digest": sha("code", task)}
        tasks[task] |= {"outputs": {name: one["sha256"] for name, one in outputs.items()}}
    version = {"model": "miniature", "number": number + 1, "run_id": run_id(number)}
    version |= {"artifact": {"sha256": made(number, "sft"), "uri": ""}, "evidence": {}}
    version |= {"key": sha("key", number, "register"), "metrics": {"toy/accuracy@0": 0.5}}
    version |= {"results": made(number, "evaluate"), "baseline": made(number, "evaluate-base")}
    version |= {"lineage": {"tasks": tasks}, "created_at": at, "created_by": "ada"}
    put(f"registry/miniature/versions/{number + 1}.json", version)


def write_data(folder: Path) -> None:
    """An artifact with one corpus of a thousand shards."""
    shards = [
        {"path": f"coyo-{one:05d}.tar", "sha256": sha("shard", one), "samples": 1000, "size": 2**20}
        for one in range(1000)
    ]
    place = folder / "artifacts" / sha("data") / "corpora" / "coyo"
    place.mkdir(parents=True)
    about = {"samples": 10**6, "images": 10**6, "format": "coyo", "shards": shards}
    (place / "manifest.json").write_text(json.dumps(about))
    files = [{"path": "corpora/coyo/manifest.json", "size": 1, "sha256": sha("manifest")}]
    (place.parents[1] / "manifest.json").write_text(json.dumps({"files": files}))


def measure(store: Store, count: int, repeats: int) -> tuple[dict[str, Any], dict[str, bool]]:
    """Times by way, and whether each way gave what was written."""
    last = count - 1

    def first() -> bool:
        index = LineageIndex(store)
        index.refresh()
        index.write()
        return len(index.run_ids()) == len(index.version_names()) == count

    def fresh() -> LineageIndex:
        index = LineageIndex(store)
        index.refresh()
        return index

    def back(index: LineageIndex) -> bool:
        graph = trace_back(index, f"version:miniature@{count}")
        tasks = {node.split("/")[1] for node in graph.nodes if node.startswith("task:")}
        corpus = f"corpus:{sha('data')}/coyo" in graph.nodes
        return corpus and tasks == TASKS.keys() - {"register", "evaluate-pretrain"}

    def forward(index: LineageIndex) -> bool:
        graph = trace_forward(index, f"artifact:{sha('data')}")
        users = {node.id for _, node in graph.children(graph.root)}
        newest = {f"task:{run_id(last)}/{task}/1" for task in ("sft", "evaluate")}
        left_out = count - 4 * MOST_FROM_ONE <= graph.left_out[graph.root] <= 7 * count
        return newest <= users and len(users) == MOST_FROM_ONE and left_out

    def digest(index: LineageIndex) -> bool:
        wanted = made(last, "evaluate")
        return find_one(index, wanted[:12]) == f"artifact:{wanted}"

    def evaluated() -> bool:
        models = (made(last, "sft"), made(0, "sft"))
        found = evaluations_of_models(store, models)
        return [[one.name for one in each] for each in found] == [
            [f"{run_id(number)}:evaluate"] for number in (last, 0)
        ]

    def process() -> bool:
        words = ["lineage", f"miniature@{count}", "--store", store.uri]
        command = [sys.executable, "-m", "vila_ops.cli.main", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return f"task sft of {run_id(last)}" in done.stdout

    began = _harness.measure(first)
    before = psutil.Process().memory_info().rss
    kept = fresh()
    back(kept), forward(kept), digest(kept)
    held = psutil.Process().memory_info().rss - before

    def again() -> bool:
        kept.refresh()
        return len(kept.run_ids()) == count

    ways: dict[str, Callable[[], bool]] = {
        "open": lambda: len(fresh().run_ids()) == count,
        "again": again,
        "back": lambda: back(kept),
        "forward": lambda: forward(kept),
        "digest": lambda: digest(kept),
        "evaluated": evaluated,
        "process": process,
    }
    taken = _harness.in_turn(ways, repeats)
    taken["first"] = [began]
    results: dict[str, Any] = {
        name: _harness.both(runs, count, "runs") for name, runs in taken.items()
    }
    path = store.local_path(KEY)
    assert path is not None
    results["index_bytes"] = path.stat().st_size
    results["held_mib"] = held / 2**20
    return results, {name: all(run.value for run in runs) for name, runs in taken.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000, help="runs in the store")


def main() -> int:
    options = _harness.options(__doc__, add_options).parse_args()
    with tempfile.TemporaryDirectory(prefix="vila-lineage-") as place:
        folder = Path(place)
        write_data(folder)
        for number in range(options.runs):
            write_run(folder, number)
        results, right = measure(open_store(folder), options.runs, options.repeats)
        for name, found in results.items():  # at once: to remove the store takes minutes
            if isinstance(found, dict):
                wall, cpu = found["wall"]["median_s"], found["cpu"]["median_s"]
                print(f"{name:<9} {wall:8.3f} s  CPU {cpu:8.3f} s")
            else:
                print(f"{name:<12} {found:,.0f}")
        sys.stdout.flush()
    wrong = sorted(name for name, good in right.items() if not good)
    if wrong:
        print(f"wrong answers: {', '.join(wrong)}", file=sys.stderr)
        return 1
    _harness.write(
        options.out,
        "lineage",
        settings={"runs": options.runs, "tasks": len(TASKS), "repeats": options.repeats},
        results=results,
        packages=("numpy",),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
