"""Small charts as SVG text: no library, no script, the same bytes for the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT, _BASE = 320, 110, 86
_BINS = 32


@dataclass(frozen=True)
class Histogram:
    """Counts (B,) of values between consecutive `edges` (B + 1,)."""

    title: str
    unit: str
    counts: np.ndarray
    edges: np.ndarray
    median: float
    largest: float


def histogram(title: str, unit: str, values: np.ndarray) -> Histogram | None:
    """Bin values (N,); up to the 99.5th percentile, the rest in the last bin. None without any."""
    if not len(values):
        return None
    high = float(np.percentile(values, 99.5))
    low = float(values.min())
    if float(values.max()) - low < _BINS and np.all(values == np.round(values)):
        edges = np.arange(low, values.max() + 2) - 0.5  # whole numbers: a bar each
    else:
        edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram(
        title, unit, counts, edges, float(np.median(values)), float(np.asarray(values).max())
    )


def draw(chart: Histogram) -> str:
    """Return the chart as a figure with its caption; every bar says what it counts."""
    if len(chart.counts) == 1:
        only = f"{chart.title}: {_number(chart.median)} in all"
        return f"<figure><figcaption>{escape(only)}</figcaption></figure>"
    top = max(int(chart.counts.max()), 1)
    width = _WIDTH / len(chart.counts)
    bars = []
    for number, count in enumerate(chart.counts.tolist()):
        height = round(_BASE * count / top, 1)
        label = f"{_span(chart, number)} {chart.unit}: {count:,}"
        bars.append(
            f'<rect x="{number * width:.1f}" y="{_BASE - height:.1f}" width="{width * 0.9:.1f}" '
            f'height="{height:.1f}"><title>{escape(label)}</title></rect>'
        )
    first, last = _span(chart, 0, begin=True), _span(chart, len(chart.counts) - 1)
    caption = (
        f"{chart.title}: median {_number(chart.median)}, largest {_number(chart.largest)} "
        f"{chart.unit}"
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(caption)}">{"".join(bars)}'
        f'<text x="0" y="{_HEIGHT - 6}">{escape(first)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{escape(last)}</text></svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def bar(share: float) -> str:
    """Return a horizontal bar for a share from 0 to 1."""
    percent = f"{100 * min(max(share, 0.0), 1.0):.1f}"
    return f'<span class="bar"><span style="width:{percent}%"></span></span>'


def _span(chart: Histogram, number: int, *, begin: bool = False) -> str:
    low, high = float(chart.edges[number]), float(chart.edges[number + 1])
    if high - low == 1 and low % 1 == 0.5:
        return _number(low + 0.5)
    if begin:
        return _number(low)
    return f"{_number(low)}-{_number(high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:,.1f}"
