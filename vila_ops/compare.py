"""Runs side by side: the settings that differ, and all metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila_ops.view import RunView

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Comparison:
    """One row per setting or metric; a row holds one value per run, None where a run has none."""

    runs: tuple[RunView, ...]
    settings: Mapping[str, Row]
    tasks: Mapping[str, Row]  # `task/metric` of single tasks: losses and the like
    metrics: Mapping[str, Row]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON-able mapping."""
        return {
            "runs": [run.run_id for run in self.runs],
            "settings": {key: list(row) for key, row in self.settings.items()},
            "tasks": {key: list(row) for key, row in self.tasks.items()},
            "metrics": {key: list(row) for key, row in self.metrics.items()},
        }


def compare_runs(runs: Sequence[RunView]) -> Comparison:
    """Compare runs of any recipes."""
    settings = _rows([{"code": run.code_digest[:12], **flatten(run.config)} for run in runs])
    losses = [
        {
            f"{task.name}/{key}": task.metrics[key]
            for task in run.tasks
            for key in _own(task.metrics)
        }
        for run in runs
    ]
    return Comparison(
        runs=tuple(runs),
        settings={key: row for key, row in settings.items() if any(v != row[0] for v in row)},
        tasks=_rows(losses),
        metrics=_rows([run.metrics for run in runs]),
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result.update(flatten(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def _own(metrics: Mapping[str, float]) -> list[str]:
    return [key for key in ("loss", "promoted") if key in metrics]


def _rows(values: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    keys = dict.fromkeys(key for part in values for key in part)
    return {key: tuple(part.get(key) for part in values) for key in sorted(keys)}
