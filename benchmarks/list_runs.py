"""`vila runs` on a store of thousands of runs: a directory, Ceph's RGW and moto.

Each store holds the same records: 93% succeeded, 5% failed or stopped, 2% whose driver died, ten
that run. `first` builds the index (once in a store's life), `newest 20` is what `vila runs` shows,
`all` every row with its status proven, `find last` what a command pays for the word `last`. They
are measured in a fresh reader of the index; `process` is the whole command, interpreter and imports
included. `no index` reads every record, in the directory.

Every listing must give the states that were written, or the script fails.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads

from components.runtime.record import RunRecord, identity
from vila_core.store import Store, open_store
from vila_ops.run_index import RunIndex
from vila_ops.runs import find_run
from vila_ops.view import make_view

ROOT = Path(__file__).parents[1]
TASKS = ("prepare", "sft", "evaluate")
RUNNING = 10

# moto in a process of its own; it takes the records from a folder, as by HTTP they take an hour.
_MOTO = """
import sys, time
from pathlib import Path
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
folder, bucket = Path(sys.argv[1]), "vila-tests"
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
backend = s3_backends["123456789012"]["aws"]
backend.create_bucket(bucket, "us-east-1")
for path in sorted(folder.rglob("*")):
    if path.is_file():
        key = f"store/{path.relative_to(folder).as_posix()}"
        backend.put_object(bucket, key, path.read_bytes())
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def write_records(folder: Path, count: int) -> Counter[str]:
    """Write the files of `count` runs; return how many runs are in each state."""
    now, states = datetime.datetime.now(datetime.UTC), Counter[str]()
    dead = {**identity(), "host": f"{platform.node()}-x"}
    for number in range(count):
        began = now - datetime.timedelta(minutes=10 * (count - number))
        state = _state(number, count)
        states[state] += 1
        run_id = f"quickstart-{began:%m%d-%H%M%S}-{number:04x}"
        _write_run(folder / "runs" / run_id, run_id, began, state, dead)
    return states


def _state(number: int, count: int) -> str:
    if number >= count - RUNNING:
        return "running"
    return {3: "interrupted", 53: "interrupted"}.get(number % 100) or (
        "failed" if number % 25 == 7 else "stopped" if number % 100 == 11 else "succeeded"
    )


def _write_run(
    folder: Path, run_id: str, began: datetime.datetime, state: str, dead: Mapping[str, Any]
) -> None:
    def put(name: str, value: object) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    start = began.isoformat(timespec="milliseconds")
    put(
        "run.json",
        {
            "run_id": run_id,
            "created_at": start,
            "name": "quickstart",
            "recipe": "quickstart",
            "config": {task: {"seed": 0, "train": {"lr": 0.001}} for task in TASKS},
            "config_digest": "c" * 64,
            "code_digest": "d" * 64,
            "runner": "subprocess",
            "tasks": [[task, task] for task in TASKS],
        },
    )
    driver = {**dead, "started_at": start} if state == "interrupted" else identity()
    put("driver.json", driver)
    for task in TASKS[: None if state == "succeeded" else 2]:
        put(f"tasks/{task}/001/started.json", {"started_at": start, "stage": task, "key": "k"})
        put(
            f"tasks/{task}/001/finished.json",
            {"status": "succeeded", "exit_code": 0, "duration_s": 61.5, "outputs": {}}
            | {"metrics": {"loss": 2.25, "toy/accuracy@0": 0.5}, "ended_at": start},
        )
    if state in ("succeeded", "failed", "stopped"):
        end = (began + datetime.timedelta(minutes=9)).isoformat(timespec="milliseconds")
        put("end.json", {"status": state, "ended_at": end, "error": None})


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-c", _MOTO, str(folder)]
    credentials = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester-secret"}
    environment = {**os.environ, **credentials}
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip()
        yield {**credentials, "VILA_S3_ENDPOINT": f"http://127.0.0.1:{port}"}
    finally:
        server.kill()
        server.communicate()


@contextlib.contextmanager
def ceph(folder: Path) -> Iterator[dict[str, str]]:
    sys.path.insert(0, str(ROOT))
    from tests import ceph_server

    with ceph_server.running() as environment:
        os.environ.update(environment)
        store = open_store("s3://vila-tests/store")
        paths = [path for path in folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(8) as threads:
            put = threads.map(
                lambda path: store.write(path.relative_to(folder).as_posix(), path.read_bytes()),
                paths,
            )
            list(put)
        yield environment


def without_index(store: Store) -> Counter[str]:
    views = [make_view(RunRecord.load(store, run_id)) for run_id in store.children("runs")]
    return Counter(view.status for view in views)


def process(uri: str, spent: list[float], *words: str) -> int:
    """Rows that the command prints; its CPU seconds are added to `spent`."""
    command = [sys.executable, "-m", "vila_ops.cli.main", "runs", "--store", uri, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    after = os.times()
    spent.append(
        after.children_user - before.children_user + after.children_system - before.children_system
    )
    return done.stdout.count("quickstart-")


def measure(
    store: Store, states: Counter[str], repeats: int
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Times by way, and whether each way gave what was written."""
    count = sum(states.values())

    def all_rows() -> bool:
        return Counter(row.status for row in RunIndex(store).list().rows) == states

    def newest() -> bool:
        return len(RunIndex(store).list(limit=20).rows) == 20

    def build() -> bool:
        index = RunIndex(store)
        found = Counter(row.status for row in index.list().rows)
        index.write()
        return found == states

    first = _harness.measure(build)
    spent: dict[str, list[float]] = {"process, newest 20": [], "process, all": []}
    ways: dict[str, Callable[[], bool]] = {
        "newest 20": newest,
        "all": all_rows,
        "find last": lambda: bool(find_run(store, "last")),
        "process, newest 20": lambda: process(store.uri, spent["process, newest 20"]) == 20,
        "process, all": lambda: process(store.uri, spent["process, all"], "--limit", "0") == count,
    }
    for way in ways.values():
        way()
    taken = _harness.in_turn(ways, repeats)
    if store.local_path("") is not None:  # once: it takes as long as all others together
        taken |= _harness.in_turn({"no index": lambda: without_index(store) == states}, 1)
    results: dict[str, Any] = {
        name: _harness.both(runs, count, "runs") for name, runs in taken.items()
    }
    for name, seconds in spent.items():
        results[name]["cpu"] = _harness.spread(seconds[1:], count, "runs")
    results["first"] = _harness.both([first], count, "runs")
    taken["first"] = [first]
    return results, {name: all(run.value for run in runs) for name, runs in taken.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000, help="runs in each store")
    parser.add_argument(
        "--stores", default="directory,ceph,moto", help="which, by commas; one not there is skipped"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    os.environ.setdefault("AWS_REGION", "us-east-1")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        states = write_records(folder, options.runs)
        keys = sum(path.is_file() for path in folder.rglob("*"))
        for kind in options.stores.split(","):
            if kind == "ceph" and not _has_ceph():
                print("ceph: skipped, it is not installed")
                continue
            with contextlib.ExitStack() as stack:
                uri = str(folder)
                if kind != "directory":
                    # The index of the directory must not be there, nor may one be made from it.
                    for path in (folder / "index").glob("*"):
                        path.unlink()
                    os.environ.update(
                        stack.enter_context({"moto": moto, "ceph": ceph}[kind](folder))
                    )
                    uri = "s3://vila-tests/store"
                found, right = measure(open_store(uri), states, options.repeats)
            if wrong := [way for way, given in right.items() if not given]:
                print(f"error: {kind}: wrong rows by {', '.join(wrong)}", file=sys.stderr)
                return 1
            results[kind] = found
            for way, spread in found.items():
                wall, cpu = spread["wall"], spread["cpu"]
                least, most = wall["min_s"], wall["max_s"]
                print(
                    f"{kind:<10} {way:<20} {wall['median_s']:7.3f} s  ({least:.3f} to {most:.3f}), "
                    f"CPU {cpu['median_s']:.3f} s"
                )
    _harness.write(
        options.out,
        "list_runs",
        settings={"runs": options.runs, "keys": keys, "states": states, "repeats": options.repeats},
        results=results,
        packages=("minio", "moto"),
    )
    return 0


def _has_ceph() -> bool:
    sys.path.insert(0, str(ROOT))
    from tests import ceph_server

    return not ceph_server.missing()


if __name__ == "__main__":
    sys.exit(main())
