"""The page of comparing: 20 runs, 100 metrics by 10,000 rows, 10 benchmarks by 5,000 answers.

A dashboard in a process of its own serves them. `page` is the HTML, `six charts` those that it
shows, `all charts` one request for 100 metrics of 20 runs, `tests` the time until all 19 x 10 tests
are there; `first` is a process that has read nothing yet, `again` the same process. `drawn` is
Chromium: from the address to the page with all charts in sight drawn, all tests in it; `drawn,
first` is that of a process that nobody has asked yet, with tests still to come. CPU is that of the
server.
Needs the extra `dev` and Debian's Chromium.

Every chart must hold a line per run, and the tests must be 190, or the script fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import numpy as np
import psutil

from components.runtime import record
from vila_core.store import Store, open_store, publish

ROOT = Path(__file__).parents[1]
NAMES = ("loss", "lr", "grad_norm", "tokens_per_s", "step_s", "mfu")
CHROMIUM = "/usr/bin/chromium"


def write_runs(store: Store, options: argparse.Namespace) -> list[str]:
    """Write the runs; return their ids."""
    names = [*NAMES, *(f"part/{number:02d}" for number in range(options.metrics - len(NAMES)))]
    return [_write_run(store, number, names, options) for number in range(options.runs)]


def _write_run(store: Store, number: int, names: list[str], options: argparse.Namespace) -> str:
    run_id = f"bench-1129-1000{number:02d}-{number:04x}"
    run = {
        "run_id": run_id,
        "name": "bench",
        "recipe": "bench",
        "config": {"sft": {"train": {"lr": 0.001 * (1 + number // 4), "seed": number % 4}}},
        "config_digest": "c" * 64,
        "code_digest": "d" * 64,
        "runner": "subprocess",
        "tasks": [["sft", "sft"], ["evaluate", "evaluate"]],
    }
    record.create_run(store, run)
    record.begin_driver(store, run_id)
    draw = np.random.default_rng(number)
    writer = record.AttemptWriter(store, run_id, "sft", {"stage": "sft", "key": "k"})
    _write_rows(writer.folder / "metrics.jsonl", names, options.rows, draw)
    _finish(writer, {"loss": 0.1}, {})
    with tempfile.TemporaryDirectory() as folder:
        _write_answers(Path(folder) / "records.jsonl", number, options, draw)
        results = publish(store, Path(folder))
    writer = record.AttemptWriter(store, run_id, "evaluate", {"stage": "evaluate", "key": "k"})
    _finish(writer, {"bench0/accuracy@0": 0.5}, {"results": results.as_json()})
    record.end_run(store, run_id, "succeeded")
    return run_id


def _finish(
    writer: record.AttemptWriter, metrics: dict[str, float], outputs: dict[str, Any]
) -> None:
    writer.finish(
        {
            "status": "succeeded",
            "exit_code": 0,
            "duration_s": 1.0,
            "outputs": outputs,
            "metrics": metrics,
            "error": None,
            "cached_from": None,
        }
    )


def _write_rows(path: Path, names: list[str], rows: int, draw: np.random.Generator) -> None:
    falling = np.exp(-np.arange(rows) / (rows / 3))[:, None] * draw.uniform(0.5, 2, len(names))
    values = (falling + 0.1 * draw.standard_normal((rows, len(names)))).round(6).tolist()
    with path.open("w") as file:
        for step, row in enumerate(values, start=1):
            told = dict(zip(names, row, strict=True))
            more = {"step": step, "time": 1.79e9 + step, "step_s": 0.5, "tokens_per_s": 17_000.0}
            file.write(json.dumps(told | more) + "\n")


def _write_answers(
    path: Path, number: int, options: argparse.Namespace, draw: np.random.Generator
) -> None:
    with path.open("w") as file:
        for benchmark in range(options.benchmarks):
            right = draw.random(options.questions) < 0.6 + 0.01 * (number % 5)
            for key, score in enumerate(right.tolist()):
                line = {
                    "key": f"bench{benchmark}/{key}",
                    "task": f"bench{benchmark}",
                    "version": "1",
                    "type": "all",
                    "shots": 0,
                    "condition": "seen",
                    "prompt_digest": f"{benchmark:04d}{key:060d}",
                    "answer": "yes" if score else "no",
                    "finished": True,
                    "reference": "yes",
                    "score": float(score),
                }
                file.write(json.dumps(line) + "\n")


class Dashboard:
    """`vila dashboard` in a process of its own."""

    def __init__(self, store: Path) -> None:
        """Start it and wait until it takes connections."""
        command = [sys.executable, "-m", "vila_ops.cli.main", "dashboard", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--store", str(store)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found is not None
        self.url = found[0]
        self.told = psutil.Process(self.process.pid)

    def get(self, path: str) -> tuple[dict[str, float], bytes]:
        """Return seconds by the clock and of the server's CPU, and what was answered."""
        before = sum(self.told.cpu_times()[:2])
        began = time.perf_counter()
        while True:  # on a busy machine the first reading may take longer than a request may
            try:
                with urllib.request.urlopen(f"{self.url}{path}", timeout=300) as answer:
                    data = answer.read()
                break
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
        wall = time.perf_counter() - began
        return {"wall_s": wall, "cpu_s": sum(self.told.cpu_times()[:2]) - before}, data

    @property
    def mib(self) -> float:
        """Resident memory."""
        return self.told.memory_info().rss / 2**20


@contextmanager
def dashboard(store: Path) -> Iterator[Dashboard]:
    """Run a dashboard."""
    started = Dashboard(store)
    try:
        yield started
    finally:
        started.process.terminate()
        started.process.wait()


def measured(site: Dashboard, runs: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one process from its first request on."""
    query = urllib.parse.urlencode([("run", run) for run in runs])
    found: dict[str, Any] = {}
    found["page, first"], _ = site.get(f"/compare?{query}")
    began = time.perf_counter()
    before = sum(site.told.cpu_times()[:2])
    told = json.loads(site.get(f"/api/v1/compare?{query}&patience_s=20")[1])
    while any(one["pending"] for one in told["paired"]):
        told = json.loads(site.get(f"/api/v1/compare?{query}&patience_s=20")[1])
    cpu = sum(site.told.cpu_times()[:2]) - before
    found["tests, first"] = {"wall_s": time.perf_counter() - began, "cpu_s": cpu}
    assert told["corrected_for"] == (options.runs - 1) * options.benchmarks
    names = [*NAMES, *(f"part/{number:02d}" for number in range(options.metrics - len(NAMES)))]
    chart = f"/api/v1/compare/chart?{query}&metric="
    taken = [site.get(chart + name)[0] for name in NAMES]
    found["six charts, first"] = {key: sum(one[key] for one in taken) for key in taken[0]}
    every = f"/api/v1/compare/curves?{query}&" + urllib.parse.urlencode(
        [("metric", name) for name in names]
    )
    found["all charts, first"], data = site.get(every)
    charts = json.loads(data)["charts"]
    assert [len(one["series"]) for one in charts] == [options.runs] * options.metrics
    for name, path in (
        ("page, again", f"/compare?{query}"),
        ("tests, again", f"/api/v1/compare?{query}"),
        ("one chart, again", chart + "loss"),
        ("all charts, again", every),
    ):
        taken = [site.get(path)[0] for _ in range(options.repeats)]
        found[name] = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
    found["bytes of all charts"] = len(data)
    found["memory_mib"] = site.mib
    return found


def drawn(site: Dashboard, runs: list[str], repeats: int, *, tests: bool = True) -> list[float]:
    """Return seconds until the page stands and every chart in sight is drawn, in Chromium.

    With `tests` the results of all paired tests must be in the page too.
    """
    from playwright.sync_api import sync_playwright

    query = urllib.parse.urlencode([("run", run) for run in runs])
    ready = """(tests) => {
        if (document.readyState !== "complete") return false;
        if (tests && document.querySelector("[data-pending]")) return false;
        const sight = [...document.querySelectorAll("#curves figure.chart")].filter((one) => {
            const { top, bottom } = one.getBoundingClientRect();
            return bottom > 0 && top < innerHeight;
        });
        return sight.length > 0 && sight.every((one) => one.querySelector("canvas"));
    }"""
    taken = []
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            began = time.perf_counter()
            page.goto(f"{site.url}/compare?{query}#curves", wait_until="commit")
            page.wait_for_function(ready, arg=tests, timeout=120_000, polling="raf")
            taken.append(time.perf_counter() - began)
            page.close()
        browser.close()
    return taken


def main() -> None:
    """Measure, check, and write the report."""
    parser = _harness.options(__doc__, _add)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.store or Path(folder) / "store"
        store = open_store(place)
        runs = store.children("runs") if options.store else []
        runs = runs or write_runs(store, options)
        with dashboard(place) as site:
            results = measured(site, runs, options)
            results["drawn_s"] = drawn(site, runs, options.repeats)
        with dashboard(place) as site:
            results["restarted"] = measured(site, runs, options)
        results["drawn_first_s"] = []
        for _ in range(options.repeats):
            with dashboard(place) as site:
                results["drawn_first_s"] += drawn(site, runs, 1, tests=False)
    for name, value in results.items():
        print(f"{name}: {value}")
    _harness.write(
        options.out,
        "compare_page",
        settings={
            name: getattr(options, name)
            for name in ("runs", "metrics", "rows", "benchmarks", "questions", "repeats")
        },
        results=results,
        packages=("fastapi", "uvicorn", "numpy", "pyarrow", "orjson", "playwright"),
    )


def _add(parser: argparse.ArgumentParser) -> None:
    for name, value in (("runs", 20), ("metrics", 100), ("rows", 10_000), ("benchmarks", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--questions", type=int, default=5_000, help="of each benchmark")
    parser.add_argument("--store", type=Path, help="keep the runs here, and use them again")


if __name__ == "__main__":
    main()
