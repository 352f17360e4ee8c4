"""Differences with their intervals as inline SVG, on one scale so that rows can be compared."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

WIDTH, HEIGHT, SIDE = 220, 22, 8


def scale(values: Iterable[float]) -> tuple[float, float]:
    """Return the least and the greatest of some values and of zero, apart at least a little."""
    found = [0.0, *values]
    low, high = min(found), max(found)
    return (low, high) if high - low > 1e-9 else (low - 1.0, high + 1.0)


def interval(
    low: float, middle: float, high: float, above: float, ends: tuple[float, float]
) -> Markup:
    """Draw `middle` between `low` and `high`, in points; it is asked to lie above `above`."""
    first, last = ends

    def x(value: float) -> float:
        return SIDE + (min(max(value, first), last) - first) / (last - first) * (WIDTH - 2 * SIDE)

    label = f"{middle:+.2f} points, from {low:+.2f} to {high:+.2f}; above {above:+.2f} is asked"
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{label}"><line x1="{a}" x2="{b}" y1="11" y2="11"/>'
        '<line class="zero" x1="{z:.1f}" x2="{z:.1f}" y1="1" y2="21"/>'
        '<line class="margin" x1="{m:.1f}" x2="{m:.1f}" y1="1" y2="21"/>'
        '<line class="span" x1="{lo:.1f}" x2="{hi:.1f}" y1="11" y2="11"/>'
        '<circle cx="{mid:.1f}" cy="11" r="4"/></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, label=label, a=SIDE, b=WIDTH - SIDE, z=x(0.0), m=x(above), lo=x(low),
        hi=x(high), mid=x(middle),
    )  # fmt: skip
