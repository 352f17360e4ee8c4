"""The dashboard on a store of ten thousand runs: start, lists, a run, a million rows, memory.

The process is `vila dashboard` itself, asked over HTTP. `first` is its start in a store without an
index, `ready` with one: seconds until `/healthz` answers 200, and until the list has rows. Every
list must hold the runs that were written, or the script fails. Memory is the process's resident
set after all of it; scripts are counted as gzip makes them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import _harness  # first: sets the number of threads
import psutil
from list_runs import write_records

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "vila_ops/web/static"
METRICS = {
    f"task_{task}/{name}@{shots}": task / 20 + shots / 100
    for task in range(10)
    for name in ("accuracy", "blind_accuracy", "chance")
    for shots in (0, 4)
}
LISTS = {
    "newest": "",
    "search": "?q=quickstart",
    "condition": f"?q={urllib.parse.quote('task_9/accuracy@0>0.4')}",
    "by a metric": "?sort=task_3/accuracy@4",
    "grouped": "?group=name",
    "page 100": "?page=100",
}


@dataclass(frozen=True)
class Process:
    """A dashboard that runs."""

    port: int
    pid: int
    began: float

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def timed(self, path: str, repeats: int = 9) -> dict[str, float]:
        taken = []
        cpu = self.cpu_s
        for _ in range(repeats):
            began = time.perf_counter()
            status, text = self.get(path)
            taken.append(time.perf_counter() - began)
            if status != 200:
                raise SystemExit(f"{path}: {status}: {text[:200]}")
        spent = (self.cpu_s - cpu) / repeats
        return {"median_s": statistics.median(taken), "max_s": max(taken), "cpu_s": spent}

    def until(self, path: str, holds: str) -> float:
        """Seconds since the start until a page holds a text."""
        while True:
            status, text = self.get(path)
            if status == 200 and holds in text:
                return time.perf_counter() - self.began
            if time.perf_counter() - self.began > 300:
                raise SystemExit(f"{path}: no '{holds}' after 300 s")
            time.sleep(0.2)

    @property
    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    @property
    def rss_mib(self) -> float:
        return psutil.Process(self.pid).memory_info().rss / 2**20


@contextmanager
def dashboard(store: Path) -> Iterator[Process]:
    command = [sys.executable, "-m", "vila_ops.cli.main", "dashboard", "--port", "0"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--store", str(store)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)", process.stdout.readline().partition("//")[2])
        assert found is not None
        yield Process(int(found[1]), process.pid, began)
    finally:
        process.terminate()
        process.communicate()


def add_metrics(store: Path) -> str:
    """Give each evaluation its metrics, and the newest run that succeeded a million rows."""
    newest = ""
    for path in sorted(store.glob("runs/*/tasks/evaluate/001/finished.json")):
        value = json.loads(path.read_text())
        value["metrics"] = METRICS
        path.write_text(json.dumps(value))
        newest = path.parts[-5]
    attempt = store / "runs" / newest / "tasks/sft/001"
    with (attempt / "metrics.jsonl").open("w") as file:
        for step in range(1, 1_000_001):
            loss = 99.0 if step == 777_777 else 1 + 1000 / (step + 999)
            file.write(f'{{"loss":{loss:.6f},"lr":0.001,"step":{step},"time":{step}}}\n')
    return newest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument(
        "--store", type=Path, help="an empty folder, or one that this script filled"
    )
    given = parser.parse_args()
    report: dict[str, object] = {"machine": _harness.machine("fastapi", "uvicorn", "pyarrow")}
    scripts = {
        str(path.relative_to(STATIC)): len(gzip.compress(path.read_bytes(), 6))
        for path in sorted(STATIC.rglob("*.js"))
    }
    report["scripts_gzip_bytes"] = {**scripts, "all": sum(scripts.values())}
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "store"
        if not (store / "runs").exists():
            write_records(store, given.runs)
        shutil.rmtree(store / "index", ignore_errors=True)
        long = add_metrics(store)
        rows = f", {given.runs:,} runs"
        with dashboard(store) as first:
            report["first"] = {
                "ready_s": first.until("/healthz", ""),
                "ready_cpu_s": first.cpu_s,
                "listed_s": first.until("/", rows),
                "listed_cpu_s": first.cpu_s,
            }
            time.sleep(10)  # the index is written after the list is shown
        with dashboard(store) as process:
            report["ready"] = {
                "ready_s": process.until("/healthz", ""),
                "ready_cpu_s": process.cpu_s,
                "listed_s": process.until("/", rows),
                "listed_cpu_s": process.cpu_s,
            }
            report["rss_listed_mib"] = process.rss_mib
            report["lists"] = {name: process.timed(f"/{query}") for name, query in LISTS.items()}
            report["lists"] |= {"json": process.timed("/api/v1/runs?rows=50")}  # type: ignore[operator]
            report["changes"] = process.timed("/api/v1/changes", 100)
            page = f"/runs/{long}"
            report["run, first visit, 1,000,000 rows"] = process.timed(page, 1)
            report["run"] = process.timed(page)
            curve = f"/api/v1/runs/{long}/curves?task=sft&key=loss"
            report["curve of 1,000,000 rows"] = process.timed(curve)
            _, text = process.get(curve)
            if max(json.loads(text)["series"][0]["high"]) != 99.0:
                raise SystemExit("a spike was lost")
            report["rss_mib"] = process.rss_mib
        _tell(report, given.out)


def _tell(report: Mapping[str, object], out: Path | None) -> None:
    text = json.dumps(report, indent=1)
    print(text, flush=True)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "dashboard.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
