from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.runtime.record import Attempt, RunRecord, create_run
from tests import s3_server
from vila_core.store import Store, open_store

ROOT = Path(__file__).parents[2]


@dataclass
class Done:
    """How a task's process ended."""

    code: int
    output: str

    @property
    def result(self) -> tuple[str, str, dict[str, float]]:
        uri, sha256, metrics = json.loads(self.output.splitlines()[-1])
        return uri, sha256, metrics


@dataclass
class Tasks:
    """Runs toy tasks as processes of their own, as a driver does."""

    store: Store
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = 300.0

    def command(self, call: dict[str, Any]) -> list[str]:
        context = {"store": self.store.uri, "run_id": "r1", "tracking": "disabled"}
        context.update(call.pop("context", {}))
        full = {**call, "context": context}
        return [sys.executable, str(ROOT / "tests/runtime/toy_task.py"), json.dumps(full)]

    def start(self, **call: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(call),
            env={**os.environ, **self.environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, **call: Any) -> Done:
        process = self.start(**call)
        output, _ = process.communicate(timeout=self.patience)
        return Done(process.returncode, output)

    def attempts(self, task: str = "toy", run_id: str = "r1") -> tuple[Attempt, ...]:
        return RunRecord.load(self.store, run_id).tasks[task]


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    store = open_store(tmp_path / "store")
    create_run(store, {"run_id": "r1"})
    return Tasks(store)


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    with s3_server.running() as environment:
        yield environment
