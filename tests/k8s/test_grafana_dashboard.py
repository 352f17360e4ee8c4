"""Grafana's dashboard asks for metrics that the platform's dashboard exports, and is well laid."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

from tests.k8s.rendered import K8S, objects, one

PATH = K8S / "components" / "monitoring" / "grafana-dashboard.json"
BOARD = json.loads(PATH.read_text())
REFERENCE = K8S.parent / "docs" / "reference" / "dashboard.md"
ROW = re.compile(r"^\| `(vila_\w+)` \| (gauge|histogram) \| (.*?) \|", re.MULTILINE)
HISTOGRAM = ("_bucket", "_count", "_sum")


def exported() -> dict[str, set[str]]:
    """Metric to its labels, by the reference, which a test of the dashboard compares with it."""
    found: dict[str, set[str]] = {}
    for name, kind, labels in ROW.findall(REFERENCE.read_text()):
        names = re.findall(r"`(\w+)`", labels)
        for ending in HISTOGRAM if kind == "histogram" else ("",):
            more = {"le"} if ending == "_bucket" else set()
            found[name + ending] = {*names, *more}
    return found


def expressions() -> list[str]:
    asked = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    queries = [item["query"] for item in BOARD["templating"]["list"] if item["type"] == "query"]
    return [*asked, *(query["query"] for query in queries)]


def test_it_asks_for_metrics_that_there_are() -> None:
    known = exported()
    assert len(known) > 10
    for text in expressions():
        (name,) = re.findall(r"vila_\w+", text)
        assert name in known, text
        labels = set(re.findall(r"(\w+)=~", text))
        for group in re.findall(r"by \(([^)]*)\)", text):
            labels |= {label.strip() for label in group.split(",")}
        labels |= set(re.findall(r"label_values\(\w+, (\w+)\)", text))
        assert labels <= known[name], text


def test_it_shows_what_is_exported() -> None:
    shown = {name for text in expressions() for name in re.findall(r"vila_\w+", text)}
    left_out = {name for name in exported() if name not in shown and not name.endswith("_sum")}
    assert left_out == {
        "vila_build_info",
        "vila_index_duration_seconds",
        "vila_running_runs_left_out",
    }


def test_panels_do_not_overlap() -> None:
    def area(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        across = range(place["x"], place["x"] + place["w"])
        return {(x, y) for x in across for y in range(place["y"], place["y"] + place["h"])}

    assert all(x < 24 for panel in BOARD["panels"] for x, _ in area(panel))
    for one_panel, other in combinations(BOARD["panels"], 2):
        assert not area(one_panel) & area(other), (one_panel["title"], other["title"])
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_config_map_holds_the_file() -> None:
    held = one(objects("gpu-cluster"), "ConfigMap", "vila-grafana-dashboard")
    assert held["data"] == {"vila.json": PATH.read_text()}
    assert held["metadata"]["labels"] == {"grafana_dashboard": "1"}
