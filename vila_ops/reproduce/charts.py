"""Plots as SVG text: no library, no script, the same bytes for the same numbers.

Each is a whole file too, with its own colours on a white ground.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLORS = ("#1f5fa8", "#c4501b", "#2b8a3e", "#7a3e9d", "#8a6d00", "#b0175f")
"""Told apart by the colour-blind too, as the lines also differ in their marks and their labels."""
_INK, _SOFT, _LINE = "#1c2024", "#5b6470", "#d8dde3"
_GOOD, _BAD = "#2b8a3e", "#b3261e"
_VERDICTS = {"reproduced": _GOOD, "opposite": _BAD, "not resolved": _SOFT}


@dataclass(frozen=True)
class Line:
    """One line of a plot: values per seed at each point of the axis.

    `number` chooses colour and dashes, so that an arm looks alike in every plot.
    """

    label: str
    points: Mapping[str, Sequence[float]]
    number: int


@dataclass(frozen=True)
class Bar:
    """One interval of a forest plot, in the unit of the axis."""

    label: str
    values: Sequence[float]
    mean: float
    low: float
    high: float
    smallest: float
    verdict: str


def lines(title: str, axis: str, drawn: Sequence[Line], *, percent: bool = True) -> str:
    """Return a plot of means, with a dot per seed and a band from the lowest to the highest."""
    height, left, top, bottom = 300, 52, 34, 46
    right = _room(line.label for line in drawn)
    width = 430 + right
    places = list(dict.fromkeys(point for line in drawn for point in line.points))
    everything = [v for line in drawn for values in line.points.values() for v in values]
    low, high = (0.0, 1.0) if percent else _range(everything)

    def x(point: str) -> float:
        step = (width - left - right - 36) / max(len(places) - 1, 1)
        return left + 18 + places.index(point) * step

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    parts = [_text(left, 18, title, _INK, weight="600")]
    for tick in range(5):
        value = low + (high - low) * tick / 4
        label = f"{100 * value:.0f}%" if percent else f"{value:.2f}"
        parts.append(_rule(left, y(value), width - right, y(value), _LINE))
        parts.append(_text(left - 6, y(value) + 4, label, anchor="end"))
    for point in places:
        parts.append(_text(x(point), height - bottom + 18, point, anchor="middle"))
    parts.append(_text((left + width - right) / 2, height - 8, axis, anchor="middle"))
    ends: list[tuple[float, str, str]] = []
    for line in drawn:
        color = COLORS[line.number % len(COLORS)]
        means = {point: sum(v) / len(v) for point, v in line.points.items()}
        path = " ".join(f"{x(point):.1f},{y(mean):.1f}" for point, mean in means.items())
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"'
            f"{_DASHES[line.number % len(_DASHES)]}/>"
        )
        band = [(x(point), y(max(v))) for point, v in line.points.items()]
        band += [(x(point), y(min(v))) for point, v in reversed([*line.points.items()])]
        around = " ".join(f"{across:.1f},{down:.1f}" for across, down in band)
        parts.append(f'<polygon points="{around}" fill="{color}" fill-opacity="0.1"/>')
        for point, values in line.points.items():
            for value in values:
                told = f"{line.label}, {axis} {point}: {_told(value, percent)}"
                parts.append(_dot(x(point), y(value), color, told))
        last = list(means)[-1]
        ends.append((y(means[last]), line.label, color))
    parts += [
        _text(width - right + 8, place + 4, label, color)
        for place, label, color in _apart(ends, 15, top, height - bottom)
    ]
    return _svg(width, height, title, parts)


def forest(title: str, bars: Sequence[Bar]) -> str:
    """Return intervals over seeds, one below the other, with the smallest effect of interest."""
    left, row, top = _room(bar.label for bar in bars), 34, 34
    width = left + 440
    height = top + row * len(bars) + 34
    ends = [v for bar in bars for v in (bar.low, bar.high, bar.smallest, -bar.smallest, 0.0)]
    low, high = _range([max(min(v, 1.0), -1.0) for v in ends])

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return left + share * (width - left - 20)

    parts = [_text(8, 18, title, _INK, weight="600")]
    for tick in _ticks(low, high):
        strong = _INK if tick == 0 else _LINE
        parts.append(_rule(x(tick), top, x(tick), height - 30, strong))
        parts.append(_text(x(tick), height - 14, f"{100 * tick:+.0f}", anchor="middle"))
    for number, bar in enumerate(bars):
        y = top + row * number + row / 2
        color = _VERDICTS[bar.verdict]
        parts.append(_text(8, y + 4, bar.label, _INK))
        for edge in (bar.smallest, -bar.smallest):
            parts.append(
                _rule(x(edge), y - 9, x(edge), y + 9, "#b8890b", ' stroke-dasharray="2 2"')
            )
        parts.append(_rule(x(bar.low), y, x(bar.high), y, color, ' stroke-width="3"'))
        for value in bar.values:
            told = f"{bar.label}: {100 * value:+.1f} points"
            parts.append(_dot(x(value), y, _INK, told, 2.5))
        parts.append(
            f'<circle cx="{x(bar.mean):.1f}" cy="{y:.1f}" r="6" fill="{color}" fill-opacity="0.55">'
            f"<title>{escape(f'{bar.label}: {100 * bar.mean:+.1f} points')}</title></circle>"
        )
    return _svg(width, height, title, parts)


_DASHES = ("", ' stroke-dasharray="7 3"', ' stroke-dasharray="2 3"', ' stroke-dasharray="9 3 2 3"')


def _room(labels: Iterable[str]) -> int:
    """Return the width that the longest label needs, in pixels."""
    return 24 + round(6.5 * max((len(label) for label in labels), default=0))


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if (high - low) / s <= 10)
    first = int(low / step) - 1
    ticks = [round((first + n) * step, 6) + 0.0 for n in range(24)]
    return [tick for tick in ticks if low <= tick <= high]


def _apart(
    ends: Sequence[tuple[float, str, str]], gap: float, top: float, bottom: float
) -> list[tuple[float, str, str]]:
    """Move labels from each other, in their order, so that none covers another."""
    placed: list[tuple[float, str, str]] = []
    for place, label, color in sorted(ends):
        free = placed[-1][0] + gap if placed else top
        placed.append((max(place, free), label, color))
    over = max((placed[-1][0] - bottom) if placed else 0.0, 0.0)
    return [(place - over, label, color) for place, label, color in placed]


def _told(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}%" if percent else f"{value:.3f}"


def _dot(x: float, y: float, color: str, told: str, radius: float = 3) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}">'
        f"<title>{escape(told)}</title></circle>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, color: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{more}/>'


def _text(
    x: float, y: float, text: str, color: str = _SOFT, *, anchor: str = "start", weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>'
    )
