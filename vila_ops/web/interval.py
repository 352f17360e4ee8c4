"""A difference with its interval, zero and what is allowed, as inline SVG."""

from __future__ import annotations

from markupsafe import Markup

WIDTH, HEIGHT, SIDE = 320, 46, 12


def interval(low: float, middle: float, high: float, least: float) -> Markup:
    """Draw `middle` between `low` and `high`; `least` is the difference that is still allowed."""
    ends = (low, high, middle, least, 0.0)
    first, last = min(ends), max(ends)
    span = (last - first) or 1.0

    def x(value: float) -> float:
        return SIDE + (value - first) / span * (WIDTH - 2 * SIDE)

    label = f"difference {middle:+.4g}, interval {low:+.4g} to {high:+.4g}, least {least:+.4g}"
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">'
        '<line x1="{a}" x2="{b}" y1="16" y2="16"/>'
        '<line class="zero" x1="{z:.1f}" x2="{z:.1f}" y1="4" y2="28"/>'
        '<line class="margin" x1="{m:.1f}" x2="{m:.1f}" y1="4" y2="28"/>'
        '<line class="span" x1="{lo:.1f}" x2="{hi:.1f}" y1="16" y2="16"/>'
        '<circle cx="{mid:.1f}" cy="16" r="4.5"/>'
        '<text x="{m:.1f}" y="42" text-anchor="{anchor}">least {least}</text>'
        '<text x="{z:.1f}" y="42" text-anchor="{other}">{zero}</text></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, label=label, a=SIDE, b=WIDTH - SIDE, z=x(0.0), m=x(least), lo=x(low),
        hi=x(high), mid=x(middle), least=f"{least:+.3g}",
        anchor=_anchor(x(least)), other=_anchor(x(0.0)),
        zero="0" if abs(x(least) - x(0.0)) > 80 else "",
    )  # fmt: skip


def _anchor(x: float) -> str:
    return "start" if x < WIDTH / 4 else "end" if x > WIDTH * 3 / 4 else "middle"
