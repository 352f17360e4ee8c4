"""A whole run: trained, measured, reported; resumed, cached, and reported again from the store."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tiny_ablation import TINY
from typer.testing import CliRunner

from components.runtime import record
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store
from vila_ops.cli.main import app
from vila_ops.driver.run import drive
from vila_ops.reproduce.config import load_plan
from vila_ops.reproduce.output import write_reports
from vila_ops.reproduce.runs import begin, load, plan_of
from vila_ops.runs import load_view

pytestmark = pytest.mark.slow
Finished = tuple[Store, str, Path]
VOID = {"meta", "br", "img", "rect", "line", "polyline", "circle"}


def vila(*args: object) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_effects_are_computed_from_what_the_tasks_recorded(finished: Finished):
    store, run_id, _ = finished
    done = load(store, run_id)
    tasks = {task.name: task.metrics for task in load_view(store, run_id).tasks}
    key = "miniature_icl/accuracy@4"
    expected = [
        tasks[f"evaluate-pretrain-free-s{seed}"][key]
        - tasks[f"evaluate-pretrain-frozen-s{seed}"][key]
        for seed in (0, 1)
    ]
    (judged,) = done.results.judged("small-finding")
    assert list(judged.spread.values) == pytest.approx(expected)
    gate = done.results.gate()
    assert gate is not None
    assert list(gate.values) == [
        tasks[f"evaluate-base-s{seed}"]["miniature_text_icl/accuracy@4"] for seed in (0, 1)
    ]


def test_the_report_says_everything_and_needs_nothing_else(finished: Finished, tmp_path: Path):
    store, run_id, _ = finished
    told = write_reports(store, run_id, tmp_path / "out")
    assert any(line.startswith("small-finding: ") for line in told)
    text = (tmp_path / "out/small-finding.md").read_text()
    for part in (
        "# A frozen language model",
        "(toy world, seeds 0 to 1)",
        "Toy world, 2 seeds, mean",
        "Flagged: the base model of seed 0, 1 is below the gate",  # two steps teach nothing
        "of interest from",
        "fixed in the ablation's file before the run",
        "| frozen | 12.5 | `frozen` |",
        "no number of one with a number of the other",
        "## Cost",
        "small-finding.yaml --size ",
        "tiny.yaml --seeds 2",
        run_id,
    ):
        assert part in text
    assert "frozen \\| kept" in text  # a table's own mark in a title
    for line in text.splitlines():
        if line.startswith("!["):
            name = line.split("(")[-1].rstrip(")")
            ElementTree.parse(tmp_path / "out" / name)  # a whole SVG file
    page = (tmp_path / "out/small-finding.html").read_text()
    assert "trained &lt;all&gt;" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert _balanced(page)
    values = json.loads((tmp_path / "out/small-finding.json").read_text())
    assert values["effects"][0]["verdict"] in ("reproduced", "opposite", "not resolved")
    again = tmp_path / "again"
    write_reports(store, run_id, again)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert store.read(f"runs/{run_id}/report/{path.name}") == path.read_bytes()


def test_the_same_again_comes_from_the_cache_with_its_cost(finished: Finished):
    store, run_id, folder = finished
    files = [str(folder / "small-finding.yaml")], str(folder / "tiny.yaml")
    again = begin(store, load_plan(*files, 2), runner="inline", name="again", argv=[])
    assert drive(store, again) == "succeeded"
    assert {task.status for task in load_view(store, again).tasks} == {"cached"}
    for one in (run_id, again):
        write_reports(store, one, None)
    first, second = (
        store.read(f"runs/{one}/report/small-finding.md").decode() for one in (run_id, again)
    )
    cost = [
        [line.split(" | ")[3:] for line in text.splitlines() if line.startswith("| **all**")]
        for text in (first, second)
    ]
    assert cost[0] == cost[1]
    assert float(cost[0][0][0].replace(",", "")) > 0


def test_a_seed_more_runs_only_that_seed(finished: Finished):
    store, _, folder = finished
    files = [str(folder / "small-finding.yaml")], str(folder / "tiny.yaml")
    more = begin(store, load_plan(*files, 3), runner="inline", name="more", argv=[])
    assert drive(store, more) == "succeeded"
    ran = {task.name for task in load_view(store, more).tasks if task.status == "succeeded"}
    assert ran
    assert all(name.endswith("-s2") for name in ran)


def test_a_run_is_continued_and_reported_where_its_store_was_moved_to(
    finished: Finished, tmp_path: Path
):
    store, run_id, folder = finished
    moved_to = shutil.copytree(folder / "store", tmp_path / "moved")
    moved = open_store(str(moved_to))
    record.end_run(moved, run_id, "stopped")
    with pytest.raises(UserError, match=f"is stopped.*\n.*vila reproduce --run {run_id}"):
        load(moved, run_id)
    out = vila(
        "--store", tmp_path / "moved", "reproduce", "--run", run_id, "--report", tmp_path / "r"
    )
    assert "small-finding: " in out
    assert (tmp_path / "r/small-finding.html").exists()
    assert plan_of(moved, run_id) == plan_of(store, run_id)


def test_a_dry_run_lists_the_tasks_and_writes_nothing(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(dumps(TINY))
    args = ("reproduce", "freezing", "--size", tmp_path / "tiny.yaml", "--seeds", 2)
    out = vila("--store", tmp_path / "store", *args, "--dry-run")
    assert "sft-never-s1  (sft)" in out
    assert not (tmp_path / "store").exists()


def test_a_run_that_is_no_reproduction_is_told(tmp_path: Path):
    store = open_store(str(tmp_path))
    record.create_run(store, {"run_id": "other-1"})
    with pytest.raises(UserError, match=r"other-1 was not started by vila reproduce"):
        plan_of(store, "other-1")


def _balanced(page: str) -> bool:
    open_tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in VOID:
                assert open_tags.pop() == tag

    Parser().feed(page)
    return not open_tags
