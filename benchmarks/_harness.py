"""What the benchmarks share: turns, spread, the machine's description, the JSON report.

A benchmark is a script with `--out FOLDER` that writes FOLDER/NAME.json and prints a line per way.
Ways are measured in turn, so that a busy moment of the machine hits all of them, and compared by
their CPU time where they run on one thread. Nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timed(Generic[Result]):
    """One measurement: wall seconds, CPU seconds of this process, what the way returned."""

    wall: float
    cpu: float
    value: Result


def measure(way: Callable[[], Result]) -> Timed[Result]:
    """Run a way once."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = way()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, value)


def in_turn(
    ways: Mapping[str, Callable[[], Result]], repeats: int
) -> dict[str, list[Timed[Result]]]:
    """Measure each way `repeats` times, one after the other in every round."""
    taken: dict[str, list[Timed[Result]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(measure(way))
    return taken


def spread(seconds: Sequence[float], count: int, unit: str) -> dict[str, float]:
    """Median and range of the seconds that `count` units took; units per second by the median."""
    median = statistics.median(seconds)
    return {
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        f"{unit}_per_s": count / median,
    }


def both(taken: Sequence[Timed[Any]], count: int, unit: str) -> dict[str, dict[str, float]]:
    """The spread of wall and of CPU time."""
    return {
        "wall": spread([one.wall for one in taken], count, unit),
        "cpu": spread([one.cpu for one in taken], count, unit),
    }


def machine(*packages: str) -> dict[str, object]:
    """Cores, memory, threads, accelerator, versions of Python and `packages`, commit and date."""
    described: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }
    torch = sys.modules.get("torch")  # only where the benchmark itself uses it
    if torch is not None:
        described["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            described["accelerator"] = torch.cuda.get_device_name()
    for package in packages:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            described[package] = None
    return described


def options(
    doc: str | None, add: Callable[[argparse.ArgumentParser], None]
) -> argparse.ArgumentParser:
    """Return a parser with `--out`, `--repeats` and what `add` adds."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON report")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way")
    add(parser)
    return parser


def write(
    folder: Path,
    name: str,
    *,
    settings: Mapping[str, Any],
    results: Mapping[str, Any],
    packages: Sequence[str],
    **more: Any,
) -> Path:
    """Write FOLDER/NAME.json; `more` are figures derived from the results. Returns the path."""
    report = {
        "benchmark": name,
        "machine": machine(*packages),
        "settings": dict(settings),
        "results": dict(results),
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {path}")
    return path


def _commit() -> str | None:
    """The commit of the checkout, with a plus sign if it has changes; None outside of one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
