"""Gates on metrics: thresholds, and drops from the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from components.registry.gates.conditions import CONTAMINATION, Gate
from components.registry.gates.verdict import Verdict
from components.registry.noise import Spread


def threshold_verdicts(
    gates: Sequence[Gate],
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    unknown: str | None = None,
    spread: Callable[[str, str], Spread | None] = lambda size, metric: None,
) -> list[Verdict]:
    """Return one verdict per condition of the gates on metrics, in order.

    `unknown` says why there are no metrics of contamination, if there are none. `spread` gives what
    the ledger of seed noise knows of (size, metric).
    """
    return [
        verdict
        for gate in gates
        if gate.metric is not None
        for verdict in _judge(gate, gate.metric, metrics, baseline, unknown, spread)
    ]


def _judge(
    gate: Gate,
    metric: str,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float],
    unknown: str | None,
    spread: Callable[[str, str], Spread | None],
) -> list[Verdict]:
    name = metric + (f" - {gate.minus}" if gate.minus else "")
    kind = "contamination" if metric.startswith(CONTAMINATION) else "threshold"
    needed = [metric, *([gate.minus] if gate.minus else [])]
    missing = [key for key in needed if metrics.get(key) is None]
    if missing:
        why = f"there is no metric {missing[0]} in the results"
        if unknown and missing[0].startswith(CONTAMINATION):
            why = f"can't be told: {unknown}"
        asked = _asked(gate)
        details = {"gate": name, "found": why, "asked": asked}
        return [Verdict(False, f"{name}: {why}", None, kind, details)]
    value = metrics[metric] - (metrics[gate.minus] if gate.minus else 0.0)
    verdicts = []
    if gate.min is not None:
        limit = f"at least {gate.min:.4g}"
        verdicts.append(_verdict(value >= gate.min, name, value, limit, kind))
    if gate.max is not None:
        limit = f"at most {gate.max:.4g}"
        verdicts.append(_verdict(value <= gate.max, name, value, limit, kind))
    if gate.baseline_drop_max is not None:
        what = f"{metric}: drop from the baseline"
        before = baseline.get(metric)
        if before is None:
            why = f"there is no metric {metric} in the baseline"
            details = {"gate": what, "found": why, "asked": _asked(gate)}
            text = f"{name}: {why}"
            return [*verdicts, Verdict(False, text, None, "baseline", details)]
        most, limit = _most_drop(gate, metric, gate.baseline_drop_max, spread)
        drop = before - metrics[metric]
        verdicts.append(_verdict(drop <= most, what, drop, limit, "baseline"))
    return verdicts


def _asked(gate: Gate) -> str:
    limits = [("at least", gate.min), ("at most", gate.max), ("drop", gate.baseline_drop_max)]
    return ", ".join(f"{word} {limit:.4g}" for word, limit in limits if limit is not None)


def _most_drop(
    gate: Gate, metric: str, asked: float, spread: Callable[[str, str], Spread | None]
) -> tuple[float, str]:
    """Return the greatest drop that passes, and in words: what is asked, or the noise if larger."""
    limit = f"at most {asked:.4g}"
    if gate.noise is None:
        return asked, limit
    known = spread(gate.noise, metric)
    if known is None:
        return asked, f"{limit} (no noise of seeds is known at size {gate.noise})"
    noise = known.drop()
    if noise <= asked:
        return asked, limit
    return noise, (
        f"at most {noise:.4g}, the noise of {known.runs} runs of size {gate.noise} (instead of "
        f"{asked:.4g}),"
    )


def _verdict(passed: bool, name: str, value: float, limit: str, kind: str) -> Verdict:
    text = f"{name} is {value:.4g}, {limit} is asked"
    return Verdict(passed, text, value, kind, {"gate": name, "asked": limit.rstrip(",")})
