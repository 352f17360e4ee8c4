"""What a task's container costs beside a process: the seconds from its start to its removal.

The same task of the tests' toy stages, which does next to nothing, run as the drivers of both
runners run it: in a container of the image `vila-platform/ops` (or `--image`), and as a process.
Each writes its record and an artifact into one directory store, under a config of its own, so that
nothing comes from the cache; W&B, which the image has not, is left out. What a run pays once, for
finding the engine and asking the image for its code, stands apart. Needs podman or docker, and the
image built from this checkout.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads

sys.path.insert(0, str(Path(__file__).parents[1]))
from components.runtime import Context
from components.runtime.context import Tracking
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store
from vila_ops.driver.container import Containers
from vila_ops.driver.graph import Graph, load_graph
from vila_ops.driver.local import SubprocessTask
from vila_ops.driver.schedule import Running
from vila_ops.recipes import stage_config

ROOT = Path(__file__).resolve().parents[1]
TOYS = ROOT / "tests" / "ops" / "toys"
LIMIT_SECONDS = 2.5
RUN_ID = "overhead"


def main(arguments: list[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--image", default="vila-platform/ops:latest", help="the image to use")

    options = _harness.options(__doc__, add).parse_args(arguments)
    toys = shlex.quote(f"--mount=type=bind,src={TOYS},dst={TOYS},readonly")
    given = os.environ.get("VILA_ENGINE_ARGS", "")
    os.environ["VILA_ENGINE_ARGS"] = f"{given} {toys} --env=PYTHONPATH={TOYS}"
    os.environ["PYTHONPATH"] = f"{TOYS}:{ROOT}"
    with tempfile.TemporaryDirectory(prefix="vila-bench-") as folder:
        return measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> int:
    graph = _graph(folder)
    store = open_store(folder / "store")
    (folder / "store").mkdir()
    (folder / "scratch").mkdir()
    began = time.perf_counter()
    try:
        rooms = Containers(store, RUN_ID, graph, {"ops": options.image}, folder / "scratch")
    except UserError as error:  # no engine, no image: nothing to measure, and no mistake
        print(f"SKIPPED: {error}")
        return 0
    once = time.perf_counter() - began
    counts = iter(range(1, 1000))
    ways: Mapping[str, Callable[[], float]] = {
        "process": lambda: _run(graph, store, folder, next(counts), None),
        "container": lambda: _run(graph, store, folder, next(counts), rooms),
    }
    try:
        for way in ways.values():
            way()  # the page cache is warm for both
        taken = _harness.in_turn(ways, options.repeats)
    finally:
        rooms.close()
    walls = {name: [one.wall for one in found] for name, found in taken.items()}
    pairs = zip(walls["container"], walls["process"], strict=True)
    overhead = statistics.median([ours - theirs for ours, theirs in pairs])
    for name, seconds in walls.items():
        print(f"{name}: {statistics.median(seconds):.2f} s a task")
    print(f"overhead of a container: {overhead:.2f} s a task (limit {LIMIT_SECONDS} s)")
    print(f"once a run, to find the engine and ask the image for its code: {once:.2f} s")
    _harness.write(
        options.out,
        "container_overhead",
        settings={"image": options.image, "repeats": options.repeats},
        results={name: _harness.spread(seconds, 1, "tasks") for name, seconds in walls.items()},
        packages=("kfp",),
        engine=f"{rooms.engine.kind} {rooms.engine.version}",
        overhead_s=overhead,
        once_s=once,
        within_limit=overhead <= LIMIT_SECONDS,
    )
    return 0 if overhead <= LIMIT_SECONDS else 1


def _graph(folder: Path) -> Graph:
    sys.path.insert(0, str(TOYS))
    runpy.run_path(str(TOYS / "sitecustomize.py"))  # as each task's Python does by itself
    from kfp import compiler
    from toy_pipeline import toy

    compiler.Compiler().compile(toy, str(folder / "toy.yaml"))
    return load_graph(folder / "toy.yaml")


def _run(graph: Graph, store: Store, folder: Path, count: int, rooms: Containers | None) -> float:
    """Run task `source` with a config of its own to its end, as a driver does."""
    task = graph.tasks["source"]
    context = Context(
        store=store.uri,
        run_id=RUN_ID,
        driver_pid=os.getpid(),
        guarded=rooms is not None,
        tracking=Tracking(wandb="disabled"),
    )
    values: dict[str, Any] = {
        "context": dumps(context.model_dump(mode="json")),
        "task": task.name,
        "config": dumps({"count": count}),
    }
    scratch = folder / "scratch" / f"source-{count}"
    running: Running
    if rooms is None:
        running = SubprocessTask(graph, task, values, {}, scratch)
    else:
        config = stage_config(task.stage)(count=count)
        running = rooms.start(task, config, values, {}, scratch)
    while (code := running.poll()) is None:
        time.sleep(0.01)
    if code:
        raise SystemExit(f"the task ended with {code}: {running.last_lines()}")
    found = len(running.outputs())
    running.clean()
    return float(found)


if __name__ == "__main__":
    raise SystemExit(main())
