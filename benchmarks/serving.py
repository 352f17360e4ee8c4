"""The chat endpoint: answers per second and latency for 1, 4 and 16 clients at a time.

`vila serve` runs as a process of its own with a random-weight miniature model. Clients ask the same
questions of the miniature world, an image or more each, over HTTP: with answers written together
(`--batch 16`), and one by one (`--batch 1`). All answers must be equal, or the script fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _harness  # first: sets the number of threads
import numpy as np
import psutil
from eval_throughput import make_model

from vila_core.eval.adapters.chat_client import ChatClient
from vila_core.eval.adapters.conversation import parts
from vila_core.eval.adapters.endpoint import _shown
from vila_core.eval.items import load_eval_set
from vila_core.eval.prompts import make_prompt
from vila_core.miniature.config import WorldConfig
from vila_core.miniature.evalsets import write_eval_sets
from vila_core.model import save

CLIENTS = (1, 4, 16)
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """One round of questions: wall and the server's CPU seconds, each answer's seconds and text."""

    wall: float
    cpu: float
    latencies: list[float]
    answers: list[str]


@contextlib.contextmanager
def server(folder: Path, batch: int) -> Iterator[tuple[str, psutil.Process]]:
    """Start `vila serve`; give its URL and its process once it is ready."""
    words = ["serve", folder, "--port", 0, "--batch", batch, "--template", "miniature"]
    command = [sys.executable, "-m", "vila_ops.cli.main", *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert found is not None
            url = found.group()
            for _ in range(1_200):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz"):
                    break
                time.sleep(0.05)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


def make_questions(folder: Path, count: int) -> list[Messages]:
    """Questions about one image, and with demonstrations about five."""
    write_eval_sets(folder, WorldConfig(), np.random.default_rng(0))
    made: list[Messages] = []
    for task, shots in (("miniature_vqa", 0), ("miniature_icl", 4)):
        items = load_eval_set(folder / task).items
        for item in items[: count // 2]:
            prompt = make_prompt(item, shots, ".")
            shown = iter(prompt.images)
            content = [
                part if part["type"] == "text" else _shown(next(shown), blind=False)
                for part in parts(prompt.text)
            ]
            made.append([{"role": "user", "content": content}])
    return made


def ask(
    url: str, process: psutil.Process, asked: Sequence[Messages], clients: int, tokens: int
) -> Asked:
    client = ChatClient(f"{url}/v1", "model", concurrency=clients, retries=0)

    def one(messages: Messages) -> tuple[float, str]:
        begun = time.perf_counter()
        text = client.complete(messages, max_new_tokens=tokens).text
        return time.perf_counter() - begun, text

    before = process.cpu_times()
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, asked))
    wall = time.perf_counter() - begun
    after = process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    return Asked(wall, cpu, [seconds for seconds, _ in found], [text for _, text in found])


def figures(url: str) -> dict[str, float]:
    """The server's own count of tokens, and its sums of time."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    rows = [row.split() for row in text.splitlines() if not row.startswith("#") and "{" not in row]
    return {name.removeprefix("vila_serve_"): float(value) for name, value in rows}


def summary(rounds: Sequence[Asked], count: int) -> dict[str, Any]:
    latencies = sorted(seconds for one in rounds for seconds in one.latencies)
    return {
        "wall": _harness.spread([one.wall for one in rounds], count, "answers"),
        "cpu": _harness.spread([one.cpu for one in rounds], count, "answers"),
        "latency_p50_s": statistics.median(latencies),
        "latency_p95_s": latencies[int(0.95 * (len(latencies) - 1))],
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=int, default=160, help="asked in each round")
    parser.add_argument("--tokens", type=int, default=64, help="longest answer")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _harness.options(__doc__, add_options).parse_args(arguments)
    results: dict[str, Any] = {}
    told: dict[str, Any] = {}
    expected: list[str] | None = None
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save(*make_model(), folder)
        asked = make_questions(Path(place) / "world", options.questions)
        for batch, ways in ((16, CLIENTS), (1, CLIENTS[-1:])):
            with server(folder, batch) as (url, process):
                ask(url, process, asked[:16], 4, 4)  # imports, allocator, compiled products
                for clients in ways:
                    rounds = [
                        ask(url, process, asked, clients, options.tokens)
                        for _ in range(options.repeats)
                    ]
                    name = f"{clients} clients, batch {batch}"
                    expected = expected or rounds[0].answers
                    if any(one.answers != expected for one in rounds):
                        print(f"error: '{name}' answers differently", file=sys.stderr)
                        return 1
                    results[name] = found = summary(rounds, len(asked))
                    print(
                        f"{name:<22} {found['wall']['answers_per_s']:7.1f} answers/s by wall,"
                        f" {found['cpu']['answers_per_s']:7.1f} per CPU second of the server;"
                        f" p50 {found['latency_p50_s'] * 1e3:.0f} ms,"
                        f" p95 {found['latency_p95_s'] * 1e3:.0f} ms"
                    )
                told[f"batch {batch}"] = figures(url)
    together, alone = (results[f"16 clients, batch {batch}"] for batch in (16, 1))
    _harness.write(
        options.out,
        "serving",
        settings={
            "questions": len(asked),
            "tokens": options.tokens,
            "repeats": options.repeats,
            "distinct_answers": len(set(expected or [])),
            "request_bytes": round(statistics.mean(len(json.dumps(one)) for one in asked)),
        },
        results=results,
        packages=("torch", "transformers", "uvicorn", "starlette"),
        served=told,
        speedup_cpu=alone["cpu"]["median_s"] / together["cpu"]["median_s"],
        speedup_wall=alone["wall"]["median_s"] / together["wall"]["median_s"],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
