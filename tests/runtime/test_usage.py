"""A task's CPU time and memory, with the processes that it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from components.runtime.usage import Usage
from tests.runtime.conftest import Tasks

MIB = 2**20


def test_a_started_process_counts_while_it_runs_and_after() -> None:
    usage = Usage(inline=True)
    assert usage.cpu_seconds() < 0.5, "what the driver used before is not the task's"
    alone = usage.sample()
    code = (
        "import sys, time; kept = bytearray(b'x') * (300 << 20)\n"
        "while time.process_time() < 0.5: pass\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        together = usage.sample()
        process.communicate()
    assert 290 * MIB < together - alone < 450 * MIB
    assert usage.sample() < together - 250 * MIB
    assert usage.peak_bytes() >= together
    assert usage.cpu_seconds() > 0.5


@pytest.mark.slow
def test_the_ranks_of_a_training_count(tasks: Tasks) -> None:
    used: list[Mapping[str, Any]] = []
    for processes in (1, 2):
        train = {"steps": 20, "lr": 0.02, "engine": "deepspeed", "packs_per_step": 2}
        # Another seed, as who computes a task does not make it another one.
        train |= {"processes": processes, "seed": processes}
        config = {"train": train, "seconds": 0.3}
        done = tasks.run(
            task=f"train{processes}", stage="tests.runtime.toy_training", config=config
        )
        assert done.code == 0, done.output
        (attempt,) = tasks.attempts(f"train{processes}")
        assert attempt.finished is not None
        used.append(attempt.finished)
    one, two = used
    assert two["cpu_s"] > 1.5 * one["cpu_s"]
    # The ranks' peaks need not meet at a heartbeat, so less than twice as much may be seen.
    assert two["peak_rss_bytes"] > one["peak_rss_bytes"] + 100 * 2**20
