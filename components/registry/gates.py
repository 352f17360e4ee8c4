"""Gates: thresholds on metrics that a model must pass before an alias moves to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import model_validator

from components.registry.noise import Spread
from vila_core.config import Frozen

CONTAMINATION = "contamination/"
"""Metric keys that begin so are made when a gate asks for them: see `contamination.py`."""


class Gate(Frozen):
    """One condition, such as "images help by 25 points": `{metric, minus, min: 0.25}`."""

    metric: str
    """Metric key, `task/metric@shots`, or `contamination/samples`."""
    minus: str | None = None
    """A metric of the same model to subtract first."""
    min: float | None = None
    """The least value that passes."""
    max: float | None = None
    """The greatest value that passes."""
    baseline_drop_max: float | None = None
    """How far `metric` may lie below the same metric of the baseline results."""
    noise: str | None = None
    """A size in the ledger of seed noise: a drop that seeds alone explain passes too."""

    @model_validator(mode="after")
    def _asks_something(self) -> Gate:
        if self.min is None and self.max is None and self.baseline_drop_max is None:
            raise ValueError(f"gate on {self.metric} needs min, max or baseline_drop_max")
        if self.noise is not None and self.baseline_drop_max is None:
            raise ValueError(
                f"gate on {self.metric}: noise is about drops from the baseline; set "
                "baseline_drop_max too (0.0: any drop beyond the noise fails)"
            )
        return self


@dataclass(frozen=True)
class Verdict:
    """What a gate found. `value` is None when a metric is missing: that never passes."""

    passed: bool
    text: str
    value: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON-able mapping."""
        return asdict(self)


def judge(
    gates: Sequence[Gate],
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    unknown: str | None = None,
    spread: Callable[[str, str], Spread | None] = lambda size, metric: None,
) -> list[Verdict]:
    """Return one verdict per condition, in order.

    `unknown` says why there are no metrics of contamination, if there are none. `spread` gives what
    the ledger of seed noise knows of (size, metric).
    """
    return [
        verdict for gate in gates for verdict in _judge(gate, metrics, baseline, unknown, spread)
    ]


def _judge(
    gate: Gate,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    unknown: str | None,
    spread: Callable[[str, str], Spread | None],
) -> list[Verdict]:
    name = gate.metric + (f" - {gate.minus}" if gate.minus else "")
    needed = [gate.metric, *([gate.minus] if gate.minus else [])]
    missing = [key for key in needed if metrics.get(key) is None]
    if missing and unknown and missing[0].startswith(CONTAMINATION):
        return [Verdict(False, f"{name}: can't be told: {unknown}", None)]
    if missing:
        return [Verdict(False, f"{name}: there is no metric {missing[0]} in the results", None)]
    value = metrics[gate.metric] - (metrics[gate.minus] if gate.minus else 0.0)
    verdicts = []
    if gate.min is not None:
        verdicts.append(_verdict(value >= gate.min, name, value, f"at least {gate.min:.4g}"))
    if gate.max is not None:
        verdicts.append(_verdict(value <= gate.max, name, value, f"at most {gate.max:.4g}"))
    if gate.baseline_drop_max is not None:
        before = baseline.get(gate.metric)
        if before is None:
            text = f"{name}: there is no metric {gate.metric} in the baseline"
            return [*verdicts, Verdict(False, text, None)]
        drop = before - metrics[gate.metric]
        most, limit = _most_drop(gate, gate.baseline_drop_max, spread)
        verdicts.append(
            _verdict(drop <= most, f"{gate.metric}: drop from the baseline", drop, limit)
        )
    return verdicts


def _most_drop(
    gate: Gate, asked: float, spread: Callable[[str, str], Spread | None]
) -> tuple[float, str]:
    """Return the greatest drop that passes, and in words: what is asked, or the noise if larger."""
    limit = f"at most {asked:.4g}"
    if gate.noise is None:
        return asked, limit
    known = spread(gate.noise, gate.metric)
    if known is None:
        return asked, f"{limit} (no noise of seeds is known at size {gate.noise})"
    noise = known.drop()
    if noise <= asked:
        return asked, limit
    return noise, (
        f"at most {noise:.4g}, the noise of {known.runs} runs of size {gate.noise} (instead of "
        f"{asked:.4g}),"
    )


def _verdict(passed: bool, name: str, value: float, limit: str) -> Verdict:
    return Verdict(passed, f"{name} is {value:.4g}, {limit} is asked", value)
