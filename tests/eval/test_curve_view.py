"""Curves to look at: a table that fits a terminal, and an SVG whose places are the values."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest

from vila_core.eval.curve import curve
from vila_core.eval.curve_view import curve_svg, curve_text

UNITS = [f"q{number}" for number in range(100)]
SVG = "{http://www.w3.org/2000/svg}"


def share(right: int) -> list[float]:
    return [1.0] * right + [0.0] * (100 - right)


ZERO = {(0, 0, 0): share(30)}
CURVES = {
    "seen": curve(ZERO | {(3, 0, 0): share(48), (3, 1, 0): share(52)}, UNITS),
    "text_demos": curve(ZERO | {(3, 0, 0): share(40)}, UNITS),
}


def test_the_table_holds_the_curve() -> None:
    text = curve_text(CURVES, "vqav2")
    lines = text.splitlines()
    assert lines[0] == "vqav2"
    assert max(map(len, lines)) <= 80
    assert "with images, 100 questions" in lines
    (three,) = [line for line in lines if line.startswith("    3    50.0")]
    assert three.split()[-2:] == ["±2.8", "-"]
    assert "per doubling of 1 + shots: +10.0 (" in text
    assert "3 shots minus 0: +20.0 (" in text
    assert curve_text({}) == ""


def test_a_curve_of_one_point_has_no_slope_in_the_table() -> None:
    text = curve_text({"seen": curve(ZERO, UNITS)})
    assert "30.0" in text
    assert "doubling" not in text
    assert "minus" not in text


def points(element: ET.Element) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in element.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_the_drawing_is_to_scale_and_whole() -> None:
    root = ET.fromstring(curve_svg(CURVES, "a < b & c", chance=0.25))
    assert root.findtext(f"{SVG}title") == "a < b & c"
    seen, control = (points(line) for line in root.iter(f"{SVG}polyline"))
    # 30 to 50 points of the one are twice 30 to 40 of the other; up is less in an SVG.
    assert seen[0] == control[0]
    assert seen[0][1] - seen[1][1] == pytest.approx(2 * (control[0][1] - control[1][1]), abs=0.3)
    dots = [float(dot.attrib["cy"]) for dot in root.iter(f"{SVG}circle")]
    assert len(dots) == 5
    assert (dots[1] + dots[2]) / 2 == pytest.approx(seen[1][1], abs=0.1)
    for band in root.iter(f"{SVG}polygon"):
        assert all(0 < x < 520 and 0 < y < 300 for x, y in points(band))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"0", "3", "shots", "chance", "demonstrations without images"} <= set(texts)
    assert "href" not in ET.tostring(root, encoding="unicode")
    assert curve_svg({}) == ""


def test_shots_stand_where_their_logarithm_is() -> None:
    trials = {(shots, 0, 0): share(30 + shots) for shots in (0, 1, 3, 7)}
    root = ET.fromstring(curve_svg({"seen": curve(trials, UNITS)}))
    (line,) = (points(line) for line in root.iter(f"{SVG}polyline"))
    steps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(line)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    flat = {"seen": curve({(0, 0, 0): [1.0] * 5}, UNITS[:5])}  # no span in either direction
    (single,) = (points(line) for line in ET.fromstring(curve_svg(flat)).iter(f"{SVG}polyline"))
    assert len(single) == 1
