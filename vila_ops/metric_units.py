"""Units of the columns of `metrics.jsonl`; docs/reference/metrics.md says what they are."""

from __future__ import annotations

UNITS = {
    "loss": "nats per supervised token",
    "tokens_per_s": "tokens / s",
    "supervised_tokens_per_s": "tokens / s",
    "image_tokens_per_s": "tokens / s",
    "images_per_s": "images / s",
    "mfu": "share",
    "pack_fill": "share",
    "feature_hit_rate": "share",
    "memory_mib": "MiB",
}


def unit_of(metric: str) -> str:
    """Return the unit of a column of metrics; "" where it has none, or is not known."""
    if metric in UNITS:
        return UNITS[metric]
    return "s / step" if metric.endswith("_s") else ""
