"""Drawings of lineage: every box stands apart, and no record can break one."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tests.web.story import Story
from vila_core.store import Store
from vila_ops.lineage import Edge, Graph, LineageIndex, Node, trace_back, trace_forward
from vila_ops.lineage.drawing import HEIGHT, MOST_BOXES, WIDTH, drawing, link

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> dict[str, tuple[float, float]]:
    root = ElementTree.fromstring(
        str(svg).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    )
    found = {}
    for anchor in root.iter(f"{SVG}a"):
        rect = anchor.find(f"{SVG}rect")
        assert rect is not None
        found[anchor.attrib["href"]] = (float(rect.attrib["x"]), float(rect.attrib["y"]))
    return found


def apart(places: list[tuple[float, float]]) -> bool:
    return all(
        abs(ax - bx) >= WIDTH or abs(ay - by) >= HEIGHT
        for number, (ax, ay) in enumerate(places)
        for bx, by in places[:number]
    )


def graph_of(edges: list[tuple[str, str]], forward: bool = False, title: str = "") -> Graph:
    names = dict.fromkeys(name for edge in edges for name in edge)
    nodes = {name: Node(name, title or name) for name in names}
    return Graph(edges[0][0], forward, nodes, tuple(Edge(*edge, "made by") for edge in edges))


def test_the_story_is_drawn_back_and_forward(told_store: Store, story: Story) -> None:
    index = LineageIndex(told_store)
    index.refresh()
    back = trace_back(index, "version:miniature@1")
    found = boxes(drawing(back))
    tasks = [one for one in found if "task%3A" in one]
    assert len(tasks) == 5
    assert sum("corpus%3A" in one for one in found) == 4
    # Artifacts are lines between tasks, but for those that are not in the store.
    missing = {node.id for node in back.nodes.values() if node.kind == "artifact" and node.missing}
    assert {link(one) for one in missing} == {one for one in found if "artifact%3A" in one}
    assert apart(list(found.values()))
    forward = boxes(drawing(trace_forward(index, f"artifact:{story.first.data.sha256}")))
    assert any("alias%3A" in one for one in forward)
    assert apart(list(forward.values()))


def test_records_that_name_each_other_in_a_circle_are_drawn() -> None:
    circle = graph_of([("task:a/x/1", "task:b/x/1"), ("task:b/x/1", "task:a/x/1")])
    assert len(boxes(drawing(circle))) == 2
    itself = graph_of([("task:a/x/1", "task:a/x/1"), ("task:a/x/1", "task:b/x/1")])
    assert len(boxes(drawing(itself))) == 2


def test_a_large_graph_is_cut() -> None:
    edges = [("task:root/x/1", f"task:{number}/x/1") for number in range(500)]
    svg = drawing(graph_of(edges))
    assert len(boxes(svg)) == MOST_BOXES
    assert apart(list(boxes(svg).values()))
    assert f"{501 - MOST_BOXES} more are in the list" in svg


def test_names_are_text() -> None:
    svg = drawing(
        graph_of([("task:a/x/1", "task:b/x/1")], title="<script>alert(1)</script>\"' onload=x")
    )
    assert "<script" not in svg
    assert len(boxes(svg)) == 2
    assert not re.search(r"\sonload=x", re.sub(r">[^<]*<", "><", re.sub(r'"[^"]*"', '""', svg)))


def test_short_cuts_are_left_out_of_full_drawings() -> None:
    chain = [(f"task:{number}/x/1", f"task:{number + 1}/x/1") for number in range(20)]
    cuts = [("task:0/x/1", f"task:{number}/x/1") for number in range(2, 20)]
    svg = drawing(graph_of([*chain, *cuts], forward=False))
    assert svg.count('class="way"') == len(chain)
    assert "a longer way leads too" in svg
