"""A run as people and scripts see it: one value made from the run's record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from components.runtime.record import Attempt, RunRecord

FINAL_EVALUATION = "evaluate"
"""The task whose metrics are the run's own."""


@dataclass(frozen=True)
class TaskView:
    """One task of a run, as its latest attempt left it."""

    name: str
    stage: str
    status: str  # waiting running succeeded cached failed stopped interrupted, or: not run
    started_at: str | None = None
    duration_s: float | None = None
    exit_code: int | None = None
    attempt: int = 0
    artifacts: tuple[Mapping[str, str], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    cached_from: str = ""

    @property
    def cached(self) -> bool:
        """Whether the result came from the cache."""
        return self.status == "cached"

    @property
    def loss(self) -> float | None:
        """The latest loss, while the task runs and after it."""
        return self.metrics.get("loss", self.progress.get("values", {}).get("loss"))

    def as_json(self) -> dict[str, Any]:
        """Return the task as `vila show --json` tells it."""
        return {
            "name": self.name,
            "status": "succeeded" if self.cached else self.status,
            "cached": self.cached,
            "attempt": self.attempt,
            "duration_s": self.duration_s,
            "exit_code": self.exit_code,
            "artifacts": [dict(artifact) for artifact in self.artifacts],
            "metrics": dict(self.metrics),
            "error": self.error or None,
        }


@dataclass(frozen=True)
class RunView:
    """A run and its tasks, in the order of the graph."""

    run_id: str
    name: str
    recipe: str
    runner: str
    status: str  # running | succeeded | failed | stopped | interrupted
    started_at: str
    duration_s: float | None
    code_digest: str
    config_digest: str
    config: Mapping[str, Any]
    tasks: tuple[TaskView, ...]
    error: str = ""
    dvc: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the final evaluation, `task/metric@shots`.

        Without one, those of all tasks; what several give, about different models, is no metric of
        the run.
        """
        found = [task.metrics for task in self.tasks if task.name == FINAL_EVALUATION]
        if not found:
            found = [task.metrics for task in self.tasks]
        given = Counter(key for part in found for key in part)
        return {
            key: value
            for part in found
            for key, value in part.items()
            if "@" in key and given[key] == 1
        }

    @property
    def data_versions(self) -> dict[str, str]:
        """Digest of each dataset that a task of this run wrote, by task."""
        return {
            task.name: artifact["sha256"]
            for task in self.tasks
            for artifact in task.artifacts
            if artifact["name"] == "data"
        }

    def task(self, name: str) -> TaskView | None:
        """Return the task of that name."""
        return next((task for task in self.tasks if task.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """Return the run as `vila show --json` tells it."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "recipe": self.recipe,
            "runner": self.runner,
            "status": self.status,
            "started_at": self.started_at,
            "duration_s": self.duration_s,
            "code_digest": self.code_digest,
            "config_digest": self.config_digest,
            "data_versions": self.data_versions,
            "dvc": {name: dict(version) for name, version in self.dvc.items()},
            "tasks": [task.as_json() for task in self.tasks],
            "metrics": self.metrics,
            "error": self.error or None,
        }


def make_view(record: RunRecord) -> RunView:
    """Make the view of a run from its record."""
    run, end = record.run, record.end or {}
    return RunView(
        run_id=record.run_id,
        name=run["name"],
        recipe=run["recipe"],
        runner=run["runner"],
        status=record.status,
        started_at=run["created_at"],
        duration_s=_duration(record),
        code_digest=run["code_digest"],
        config_digest=run["config_digest"],
        config=run["config"],
        tasks=tuple(_task(record, name, stage) for name, stage in run["tasks"]),
        error=end.get("error") or "",
        dvc=run.get("dvc") or {},
    )


def _task(record: RunRecord, name: str, stage: str) -> TaskView:
    attempts = record.tasks.get(name, ())
    status = record.task_status(name)
    running = record.status == "running"
    if attempts and running and status not in ("succeeded", "cached"):
        # After a resume, what an earlier driver left unfinished waits for its next attempt.
        status = "waiting" if record.earlier(attempts[-1]) else status
    if not attempts or status == "waiting":
        return TaskView(name, stage, "waiting" if running else "not run")
    attempt = attempts[-1]
    finished = attempt.finished or {}
    outputs = finished.get("outputs") or {}
    source = finished.get("cached_from") or {}
    return TaskView(
        name=name,
        stage=stage,
        status=status,
        started_at=attempt.started["started_at"],
        duration_s=_task_duration(attempt, status),
        exit_code=finished.get("exit_code"),
        attempt=attempt.number,
        artifacts=tuple({"name": key, **value} for key, value in sorted(outputs.items())),
        metrics=_numbers(finished.get("metrics") or {}),
        progress=attempt.progress,
        error=_error(finished.get("error")),
        cached_from=source.get("run_id", ""),
    )


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Leave out what was not finite, which records hold as null."""
    return {key: value for key, value in metrics.items() if value is not None}


def _error(error: Mapping[str, str] | None) -> str:
    """Return the message; of an unforeseen exception with its class, which often says most."""
    if not error:
        return ""
    kind, message = error["kind"], error["message"]
    return f"{kind}: {message}" if kind.endswith("Error") and kind != "UserError" else message


def _task_duration(attempt: Attempt, status: str) -> float | None:
    if attempt.finished is not None:
        return attempt.finished.get("duration_s")
    return _since(attempt.started["started_at"]) if status == "running" else None


def _duration(record: RunRecord) -> float | None:
    """Seconds from the start to the end, or until now; unknown when the driver died."""
    if record.end is not None:
        return _since(record.run["created_at"], record.end["ended_at"])
    return _since(record.run["created_at"]) if record.status == "running" else None


def _since(start: str, end: str | None = None) -> float:
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return round((until - datetime.fromisoformat(start)).total_seconds(), 3)
