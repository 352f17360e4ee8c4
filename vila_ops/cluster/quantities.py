"""Kubernetes' amounts (500m, 16Gi) as numbers, and numbers as people read them."""

from __future__ import annotations

_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)}


def amount(text: str | int | float) -> float:
    """Return an amount as a number: cores, bytes, pieces. Raises ValueError for another text."""
    value = str(text).strip()
    for length in (2, 1):
        if value[-length:] in _UNITS:
            return float(value[:-length]) * _UNITS[value[-length:]]
    return float(value)


def shown(resource: str, value: float) -> str:
    """Return an amount of a resource for a table: memory in GiB, what is counted as a number."""
    if "memory" in resource or "storage" in resource:
        return f"{value / 2**30:,.4g} GiB"
    return f"{value:,.4g}"
