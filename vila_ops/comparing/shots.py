"""Scores of several runs by number of demonstrations, over one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.runtime.metric_rows import Numbers
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.eval.curve import Curve
from vila_ops.comparing.chosen import Chosen, Problem
from vila_ops.comparing.overlay import Line
from vila_ops.comparing.pairs import Pairs


@dataclass(frozen=True)
class ShotLines:
    """A line per run that has a curve, over numbers of shots; and what could not be read."""

    x: tuple[int, ...]
    lines: tuple[Line, ...]
    problems: tuple[Problem, ...]


def shot_lines(pairs: Pairs, runs: Sequence[Chosen], benchmark: str) -> ShotLines:
    """Return the in-context-learning curves of runs, in points of 100, as one chart's lines."""
    found: dict[int, Curve] = {}
    problems = []
    for place, one in enumerate(runs):
        try:
            curve = pairs.shots(one, benchmark)
        except (UserError, NotFound, Damaged) as error:
            problems.append(Problem(one.name, str(error)))
            continue
        if curve is not None:
            found[place] = curve
    x = sorted({point.shots for curve in found.values() for point in curve.points})
    lines = [_line(place, curve, x, runs[place].letter) for place, curve in found.items()]
    return ShotLines(tuple(x), tuple(lines), tuple(problems))


def _line(place: int, curve: Curve, x: Sequence[int], letter: str) -> Line:
    at = {point.shots: point for point in curve.points}

    def column(part: str) -> Numbers:
        values = [getattr(at[each], part) if each in at else math.nan for each in x]
        return 100 * np.array(values)

    return Line(letter, (place,), column("mean"), column("low"), column("high"))
