"""A curve as inline SVG: no script, colours from the page's style sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10

from markupsafe import Markup

WIDTH, HEIGHT = 480, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 26
COLUMNS = WIDTH - LEFT - RIGHT

TINY = 1e-300

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Finite points sorted by x; `band` gives least and greatest value by point, where it has one.

    `color` is 1 to 8, of the style sheet's palette.
    """

    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    color: int = 1


def curve(points: Sequence[Point], label: str) -> Markup:
    """Draw finite points sorted by x. `label` says what is shown to who can't see it."""
    return drawing([Line(thin(points, COLUMNS))], label)


def drawing(lines: Sequence[Line], label: str) -> Markup:
    """Draw lines over one axis; empty without a point."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    low_x = min(line.points[0][0] for line in lines)
    high_x = max(line.points[-1][0] for line in lines)
    low_y = min(min(y for _, y in line.points) for line in lines)
    high_y = max(max(y for _, y in line.points) for line in lines)
    for line in lines:
        low_y = min([low_y, *(low for low, _ in line.band)])
        high_y = max([high_y, *(high for _, high in line.band)])
    if high_y / 2 - low_y / 2 < TINY:
        margin = abs(low_y) * 0.1 or 1.0
        low_y, high_y = low_y - margin, high_y + margin

    def place(x: float, y: float) -> tuple[float, float]:
        along, up = _share(x, low_x, high_x), _share(y, low_y, high_y)
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(low_y, high_y):
        _, y = place(low_x, tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text x="{}" y="{:.1f}" text-anchor="end">{:.4g}</text>'
            ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, tick)
        )
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{:.10g}</text>').format(
                place(x, low_y)[0], HEIGHT - 8, anchor, x
            )
        )
    for line in lines:
        parts.append(_drawn(line, place))
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def _drawn(line: Line, place: Callable[[float, float], Point]) -> Markup:
    dots = [place(x, y) for x, y in line.points]
    style = f"curve s{line.color}"
    if len(dots) == 1:
        (x, y), *_ = dots
        return Markup('<circle class="{} f{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
            style, line.color, x, y
        )
    drawn = Markup("")
    if line.band:
        ends = list(zip((x for x, _ in line.points), line.band, strict=True))
        round_ = [place(x, high) for x, (_, high) in ends]
        round_ += [place(x, low) for x, (low, _) in reversed(ends)]
        drawn = Markup('<polygon class="band f{}" points="{}"/>').format(line.color, _path(round_))
    return drawn + Markup('<polyline class="{}" points="{}"/>').format(style, _path(dots))


def _path(dots: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)


def _share(value: float, low: float, high: float) -> float:
    span = high / 2 - low / 2  # halves, as a whole span may overflow
    return (value / 2 - low / 2) / span if span >= TINY else 0.5


def thin(points: Sequence[Point], columns: int) -> list[Point]:
    """Keep of each column of pixels the least and the greatest value: no spike is lost."""
    if len(points) <= 2 * columns:
        return list(points)
    kept = [points[0]]
    for column in range(columns):
        part = points[column * len(points) // columns : (column + 1) * len(points) // columns]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    kept.append(points[-1])
    return sorted(set(kept))


def ticks(low: float, high: float) -> list[float]:
    """Return some three to six round numbers between two."""
    span = high - low
    if not TINY <= span < float("inf"):
        return [low, high]
    step = 10.0 ** floor(log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = -floor(-low / step)
    return [number * step for number in range(first, floor(high / step) + 1)]
