"""Charts as files of their own: one list of strokes, as SVG text or as a PNG's pixels."""

from __future__ import annotations

import html
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from components.runtime.metric_rows import Numbers

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 68, 16, 36, 40
LEGEND_ROW, LEGEND_COLUMN = 18, 172
SCALE = 2
"""Pixels of a PNG per unit."""
DASHES = ((), (7, 4), (2, 3))


@dataclass(frozen=True)
class Scheme:
    """Colours of a drawing."""

    back: str
    ink: str
    soft: str
    line: str
    series: tuple[str, ...]


LIGHT = Scheme(
    "#ffffff",
    "#1c2024",
    "#565f6a",
    "#d5dae0",
    (
        "#1f5fa8", "#b3460a", "#00735a", "#8a3d8f", "#7a6200", "#0b7490", "#b8285b", "#565f6a",
    ),
)  # fmt: skip
DARK = Scheme(
    "#14181d",
    "#e6e9ed",
    "#a3adb8",
    "#353c45",
    (
        "#7db3ee", "#ff9a5c", "#4fd1a5", "#d99ae0", "#e3c34a", "#63c7e6", "#ff8fb3", "#b4bec8",
    ),
)  # fmt: skip
SCHEMES = {"light": LIGHT, "dark": DARK}


@dataclass(frozen=True)
class Drawn:
    """A line with its place in the palette (from 0), and perhaps a band; dots where they matter."""

    label: str
    colour: int
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """What is drawn. `ticks` are the places of labels on the x axis, by default round numbers."""

    title: str
    x: Numbers
    x_label: str
    lines: tuple[Drawn, ...]
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class _Stroke:
    """A path, area, text or dot; `points` are in units of the drawing."""

    kind: str  # line, area, text, dot
    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0
    dash: tuple[int, ...] = ()
    text: str = ""
    anchor: str = "start"
    size: int = 12
    alpha: float = 1.0


def svg(panel: Panel, scheme: str = "light") -> str:
    """Return the drawing as a standalone SVG document: it needs nothing from outside."""
    colours = SCHEMES[scheme]
    width, height = WIDTH, _height(panel)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="system-ui, sans-serif">',
        f"<title>{_escaped(panel.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{colours.back}"/>',
        *(_svg_stroke(stroke) for stroke in _strokes(panel, colours)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def png(panel: Panel, scheme: str = "light") -> bytes:
    """Return the drawing as a PNG with two pixels per unit."""
    from PIL import Image, ImageDraw

    colours = SCHEMES[scheme]
    # Drawn twice as large again and shrunk: Pillow's lines have no soft edges.
    factor = 2 * SCALE
    size = WIDTH * factor, _height(panel) * factor
    image = Image.new("RGB", size, colours.back)
    for stroke in _strokes(panel, colours):
        if stroke.kind == "area":
            layer = Image.new("L", size, 0)
            places = [(x * factor, y * factor) for x, y in stroke.points]
            ImageDraw.Draw(layer).polygon(places, fill=round(255 * stroke.alpha))
            image.paste(Image.new("RGB", size, stroke.colour), (0, 0), layer)
        else:
            _png_stroke(ImageDraw.Draw(image), stroke, factor)
    image = image.resize((WIDTH * SCALE, _height(panel) * SCALE), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _height(panel: Panel) -> int:
    columns = max(1, (WIDTH - LEFT - RIGHT) // LEGEND_COLUMN)
    return HEIGHT + LEGEND_ROW * -(-len(panel.lines) // columns)


def _strokes(panel: Panel, colours: Scheme) -> Iterator[_Stroke]:
    """Yield what is drawn, from back to front."""
    yield _Stroke("text", ((LEFT, 22),), colours.ink, text=panel.title, size=15)
    scale = _Scale(panel)
    for value, label in scale.y_ticks():
        y = scale.y(value)
        yield _Stroke("line", ((LEFT, y), (WIDTH - RIGHT, y)), colours.line)
        yield _Stroke("text", ((LEFT - 8, y + 4),), colours.soft, text=label, anchor="end")
    for value, label in panel.ticks or scale.x_ticks():
        x = scale.x(value)
        yield _Stroke("line", ((x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 4)), colours.soft)
        place = (x, HEIGHT - BOTTOM + 18)
        yield _Stroke("text", (place,), colours.soft, text=label, anchor="middle")
    middle = ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4)
    yield _Stroke("text", (middle,), colours.soft, text=panel.x_label, anchor="middle")
    for line in panel.lines:
        yield from _bands(panel, line, scale, colours)
    for line in panel.lines:
        yield from _lines(panel, line, scale, colours)
    yield from _legend(panel, colours)


def _bands(panel: Panel, line: Drawn, scale: _Scale, colours: Scheme) -> Iterator[_Stroke]:
    if line.low is None or line.high is None:
        return
    known = np.isfinite(scale.shown(line.low)) & np.isfinite(scale.shown(line.high))
    x = panel.x[known]
    if len(x) < 2:
        return
    above = [(scale.x(a), scale.y(b)) for a, b in zip(x, line.high[known], strict=True)]
    below = [(scale.x(a), scale.y(b)) for a, b in zip(x, line.low[known], strict=True)]
    colour = colours.series[line.colour % len(colours.series)]
    yield _Stroke("area", tuple(above + below[::-1]), colour, alpha=0.18)


def _lines(panel: Panel, line: Drawn, scale: _Scale, colours: Scheme) -> Iterator[_Stroke]:
    known = np.isfinite(scale.shown(line.y))
    places = tuple(
        (scale.x(a), scale.y(b)) for a, b in zip(panel.x[known], line.y[known], strict=True)
    )
    colour = colours.series[line.colour % len(colours.series)]
    dash = DASHES[line.colour // len(colours.series) % len(DASHES)]
    if len(places) > 1:
        yield _Stroke("line", places, colour, 1.75, dash)
    if line.dots or len(places) == 1:
        for place in places:
            yield _Stroke("dot", (place,), colour, 3)


def _legend(panel: Panel, colours: Scheme) -> Iterator[_Stroke]:
    columns = max(1, (WIDTH - LEFT - RIGHT) // LEGEND_COLUMN)
    for number, line in enumerate(panel.lines):
        x = LEFT + number % columns * LEGEND_COLUMN
        y = HEIGHT + 12 + number // columns * LEGEND_ROW
        colour = colours.series[line.colour % len(colours.series)]
        dash = DASHES[line.colour // len(colours.series) % len(DASHES)]
        yield _Stroke("line", ((x, y - 4), (x + 20, y - 4)), colour, 3, dash)
        label = line.label if len(line.label) <= 22 else line.label[:21] + "…"
        yield _Stroke("text", ((x + 26, y),), colours.ink, text=label)


class _Scale:
    """Where values lie in the drawing."""

    def __init__(self, panel: Panel) -> None:
        self.log = panel.log
        every = [each for line in panel.lines for each in (line.y, line.low, line.high)]
        values = np.concatenate([self.shown(each) for each in every if each is not None] or [[]])
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        with np.errstate(over="ignore"):
            margin = 0.05 * (high / 2 - low / 2) * 2 or abs(low) * 0.1 or 1.0
        self.low, self.high = float(low - margin), float(high + margin)
        x = panel.x[np.isfinite(panel.x)]
        self.left, self.right = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)

    def shown(self, values: Numbers) -> Numbers:
        """Return values as the axis has them: by a logarithm where it is one."""
        if not self.log:
            return np.asarray(values, dtype=np.float64)
        with np.errstate(all="ignore"):
            return np.where(values > 0, np.log10(np.where(values > 0, values, 1.0)), np.nan)

    def x(self, value: float) -> float:
        """Return the place of a value on the x axis."""
        return LEFT + _share(value, self.left, self.right) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the place of a value on the y axis."""
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        return HEIGHT - BOTTOM - _share(value, self.low, self.high) * (HEIGHT - TOP - BOTTOM)

    def y_ticks(self) -> list[tuple[float, str]]:
        """Return values and labels."""
        if not self.log:
            return [(value, _short(value)) for value in round_numbers(self.low, self.high)]
        first, last = math.ceil(self.low), math.floor(self.high)
        exponents: Sequence[float] = range(first, last + 1, max(1, (last - first) // 6))
        if not exponents:
            exponents = (self.low, self.high)
        return [(10.0**one, _short(10.0**one)) for one in exponents if -300 < one < 300]

    def x_ticks(self) -> list[tuple[float, str]]:
        """Return values and labels."""
        return [(value, _short(value)) for value in round_numbers(self.left, self.right)]


def round_numbers(low: float, high: float) -> list[float]:
    """Return some three to seven round numbers between two."""
    span = high - low
    if not 1e-300 <= span < math.inf:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    if step == 0 or not math.isfinite(step):
        return [low, high]
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)][:12]


def _share(value: float, low: float, high: float) -> float:
    span = high / 2 - low / 2  # halves, as a whole span may overflow
    return (value / 2 - low / 2) / span if span > 1e-300 else 0.5


def _short(value: float) -> str:
    size = abs(value)
    for limit, unit, by in ((1e12, "T", 1e12), (1e9, "G", 1e9), (1e6, "M", 1e6), (1e4, "k", 1e3)):
        if size >= limit and size < 1e15:
            return f"{value / by:.4g}{unit}"
    return f"{value:.4g}"


def _escaped(text: str) -> str:
    kept = "".join(c if c >= " " and not "\ud800" <= c <= "\udfff" else "?" for c in text)
    return html.escape(kept)


def _svg_stroke(stroke: _Stroke) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in stroke.points)
    x, y = stroke.points[0]
    if stroke.kind == "text":
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{stroke.colour}" font-size="{stroke.size}" '
            f'text-anchor="{stroke.anchor}">{_escaped(stroke.text)}</text>'
        )
    if stroke.kind == "dot":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{stroke.width}" fill="{stroke.colour}"/>'
    if stroke.kind == "area":
        return f'<polygon points="{places}" fill="{stroke.colour}" opacity="{stroke.alpha}"/>'
    dash = f' stroke-dasharray="{" ".join(map(str, stroke.dash))}"' if stroke.dash else ""
    return (
        f'<polyline points="{places}" fill="none" stroke="{stroke.colour}" '
        f'stroke-width="{stroke.width}" stroke-linejoin="round"{dash}/>'
    )


def _png_stroke(draw: object, stroke: _Stroke, factor: int) -> None:
    from PIL import ImageDraw, ImageFont

    assert isinstance(draw, ImageDraw.ImageDraw)
    places = [(x * factor, y * factor) for x, y in stroke.points]
    if stroke.kind == "text":
        font = ImageFont.load_default(stroke.size * factor)
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[stroke.anchor]
        text = "".join(c if c.isprintable() else "?" for c in stroke.text)
        draw.text(places[0], text, fill=stroke.colour, font=font, anchor=anchor)
    elif stroke.kind == "dot":
        (x, y), radius = places[0], stroke.width * factor
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=stroke.colour)
    else:
        width = max(1, round(stroke.width * factor))
        for part in _dashed(places, stroke.dash, factor):
            draw.line(part, fill=stroke.colour, width=width, joint="curve")


def _dashed(
    places: list[tuple[float, float]], dash: tuple[int, ...], factor: int
) -> Iterator[list[tuple[float, float]]]:
    """Yield the parts of a path that are drawn."""
    if not dash:
        yield places
        return
    lengths = [part * factor for part in dash]
    part, left, drawn = [places[0]], float(lengths[0]), True
    number = 0
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        length, done = math.hypot(x1 - x0, y1 - y0), 0.0
        while length - done > left:
            done += left
            at = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if drawn:
                yield [*part, at]
            part, drawn = [at], not drawn
            number += 1
            left = float(lengths[number % len(lengths)])
        left -= length - done
        part.append((x1, y1))
    if drawn and len(part) > 1:
        yield part
