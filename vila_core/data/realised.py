"""What a training has consumed of each corpus, against what its mixture asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

COUNTED = ("samples", "tokens", "supervised", "images")


def realised(
    consumed: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Return counts, epochs and shares of each corpus; `sizes` are the samples that it has.

    Keys: samples, tokens, supervised, images (counts over all ranks), epochs, and tokens_share,
    supervised_share, images_share (of the whole mixture; 0 where there is none).
    """
    totals = {kind: sum(row[kind] for row in consumed.values()) for kind in COUNTED}
    result = {}
    for name, size in sizes.items():
        row = {kind: float(consumed[name][kind]) for kind in COUNTED}
        row["epochs"] = row["samples"] / size
        for kind in COUNTED[1:]:
            row[f"{kind}_share"] = row[kind] / totals[kind] if totals[kind] else 0.0
        result[name] = row
    return result


def table(
    found: Mapping[str, Mapping[str, float]],
    asked: Mapping[str, float],
    by: Literal["tokens", "supervised"],
) -> list[str]:
    """Return lines that tell, per corpus, the asked and the realised share."""
    rows = [("corpus", "asked", "realised", "tokens", "supervised", "epochs")]
    for name, row in found.items():
        rows.append(
            (
                name,
                f"{asked[name]:.2%}",
                f"{row[f'{by}_share']:.2%}",
                f"{row['tokens']:,.0f}",
                f"{row['supervised']:,.0f}",
                f"{row['epochs']:.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    title = "mixture by supervised tokens" if by == "supervised" else "mixture"
    return [
        f"{title}: {row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
