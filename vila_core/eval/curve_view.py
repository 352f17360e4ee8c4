"""In-context-learning curves to look at: a text table for terminals, and an inline SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from vila_core.eval.curve import Curve, Interval

NAMES = {
    "seen": "with images",
    "text_demos": "demonstrations without images",
}
_COLOURS = ("#1f6fb4", "#c4561a", "#3a8f4d", "#8a4fa3")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 300, 46, 14, 34, 44


def curve_text(curves: Mapping[str, Curve], title: str = "in-context learning") -> str:
    """Return the curves as a table, at most 80 columns wide, in points of 100."""
    if not curves:
        return ""
    lines = [title]
    for condition, curve in curves.items():
        name = NAMES.get(condition, condition)
        lines += ["", f"{name}, {curve.questions:,} questions"]
        lines.append(
            f"{'shots':>5}  {'score':>6}  {'95% interval':>15}  {'seeds':>6}  {'orders':>6}"
        )
        for point in curve.points:
            interval = f"{_points(point.low)} … {_points(point.high)}"
            spread = [_spread(value) for value in (point.over_seeds, point.over_orders)]
            lines.append(
                f"{point.shots:>5}  {_points(point.mean):>6}  {interval:>15}  "
                f"{spread[0]:>6}  {spread[1]:>6}"
            )
        lines += _slopes(curve)
    return "\n".join(lines) + "\n"


def _slopes(curve: Curve) -> list[str]:
    lines = []
    if curve.slope is not None:
        lines.append(f"per doubling of 1 + shots: {_signed(curve.slope)} over questions")
    if curve.slope_over_seeds is not None:
        lines.append(f"                           {_signed(curve.slope_over_seeds)} over seeds")
    if curve.gain is not None:
        first, last = curve.points[0].shots, curve.points[-1].shots
        lines.append(f"{last} shots minus {first}: {_signed(curve.gain)} over questions")
    return lines


def curve_svg(
    curves: Mapping[str, Curve], title: str = "in-context learning", *, chance: float | None = None
) -> str:
    """Return the curves as one SVG element: means as lines, 95% intervals as bands, trials as dots.

    The axis of shots is that of the slope, log2(1 + shots). `chance` (0 to 1) is a dashed line. The
    element needs nothing from outside, and takes its text colour from where it stands.
    """
    shots = sorted({point.shots for curve in curves.values() for point in curve.points})
    if not shots:
        return ""
    ends = [value for curve in curves.values() for p in curve.points for value in (p.low, p.high)]
    ends += [chance] if chance is not None else []
    plot = _Plot(shots, min(ends), max(ends))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'width="{_WIDTH}" font-family="sans-serif" font-size="12" fill="currentColor">',
        f"<title>{html.escape(title)}</title>",
        *plot.axes(shots),
    ]
    if chance is not None:
        y = plot.y(chance)
        parts.append(
            f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="currentColor" '
            'stroke-dasharray="4 4" opacity="0.5"/>'
        )
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{y - 4}" text-anchor="end">chance</text>')
    for index, (condition, curve) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        parts += plot.curve(curve, colour)
        x = _LEFT + index * 210
        name = html.escape(NAMES.get(condition, condition))
        parts.append(f'<rect x="{x}" y="12" width="12" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="18">{name}</text>')
    return "".join([*parts, "</svg>"])


class _Plot:
    """Places of values in the drawing, in its own units."""

    def __init__(self, shots: Sequence[int], low: float, high: float) -> None:
        self._most = math.log2(1 + shots[-1]) or 1.0
        self._step = _step(high - low)
        self._low = math.floor(low / self._step) * self._step
        self._high = max(math.ceil(high / self._step) * self._step, self._low + self._step)

    def x(self, shots: int) -> float:
        share = math.log2(1 + shots) / self._most
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self, shots: Sequence[int]) -> list[str]:
        """Return lines and labels: a line per step of the score, a label per number of shots."""
        parts = []
        for index in range(round((self._high - self._low) / self._step) + 1):
            value = self._low + index * self._step
            y = self.y(value)
            parts.append(
                f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="currentColor" opacity="0.15"/>'
            )
            label = f"{100 * value:.4g}"
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
        bottom = _HEIGHT - _BOTTOM
        for count in shots:
            x = self.x(count)
            parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{count}</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">shots</text>')
        return parts

    def curve(self, curve: Curve, colour: str) -> list[str]:
        """Return the band, the line and the dots of one curve."""
        upper = [f"{self.x(p.shots)},{self.y(p.high)}" for p in curve.points]
        lower = [f"{self.x(p.shots)},{self.y(p.low)}" for p in reversed(curve.points)]
        line = " ".join(f"{self.x(p.shots)},{self.y(p.mean)}" for p in curve.points)
        dots = [
            f'<circle cx="{self.x(p.shots)}" cy="{self.y(trial["mean"])}" r="2" fill="{colour}" '
            'opacity="0.5"/>'
            for p in curve.points
            for trial in p.trials
        ]
        return [
            f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.15"/>',
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
            *dots,
        ]


def _step(span: float) -> float:
    """Return the distance of grid lines, so that there are some five."""
    return next((step for step in (0.005, 0.01, 0.02, 0.05, 0.1) if span / step <= 6), 0.2)


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _spread(value: float | None) -> str:
    return "-" if value is None else f"±{100 * value:.1f}"


def _signed(found: Interval) -> str:
    mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} … {high:+.1f})"
