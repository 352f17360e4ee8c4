"""Runs side by side: the settings that differ, and all metrics beside the noise of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from components.registry.noise import Spread
from vila_ops.view import RunView

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Comparison:
    """One row per setting or metric; a row holds one value per run, None where a run has none."""

    runs: tuple[RunView, ...]
    settings: Mapping[str, Row]
    tasks: Mapping[str, Row]  # `task/metric` of single tasks: losses and the like
    metrics: Mapping[str, Row]
    noise: Mapping[str, Spread] = field(default_factory=dict)
    """How far apart seeds alone put a metric, where the ledger knows it."""

    def within_noise(self, metric: str) -> bool | None:
        """Tell whether seeds alone explain how far the runs lie apart; None if it's not known."""
        values = [value for value in self.metrics[metric] if value is not None]
        if metric not in self.noise or len(values) < 2:
            return None
        return max(values) - min(values) <= self.noise[metric].difference()

    def only_different(self) -> Comparison:
        """Return it without the rows in which all runs have the same value."""
        return replace(self, tasks=_different(self.tasks), metrics=_different(self.metrics))

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON-able mapping."""
        return {
            "runs": [run.run_id for run in self.runs],
            "settings": {key: list(row) for key, row in self.settings.items()},
            "tasks": {key: list(row) for key, row in self.tasks.items()},
            "metrics": {key: list(row) for key, row in self.metrics.items()},
            "noise": {
                key: spread.as_json() | {"within": self.within_noise(key)}
                for key, spread in self.noise.items()
                if key in self.metrics
            },
        }


def compare_runs(runs: Sequence[RunView], noise: Mapping[str, Spread] | None = None) -> Comparison:
    """Compare runs of any recipes; `noise` is what the ledger knows of their metrics."""
    settings = _rows([{"code": run.code_digest[:12], **flatten(run.config)} for run in runs])
    losses = [
        {
            f"{task.name}/{key}": task.metrics[key]
            for task in run.tasks
            for key in _own(task.metrics)
        }
        for run in runs
    ]
    metrics = _rows([run.metrics for run in runs])
    return Comparison(
        runs=tuple(runs),
        settings=_different(settings),
        tasks=_rows(losses),
        metrics=metrics,
        noise={key: noise[key] for key in metrics if noise and key in noise},
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


def _different(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _own(metrics: Mapping[str, float]) -> list[str]:
    return [key for key in ("loss", "promoted") if key in metrics]


def _rows(values: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    keys = dict.fromkeys(key for part in values for key in part)
    return {key: tuple(part.get(key) for part in values) for key in sorted(keys)}
