"""A gate on a benchmark that only `vila eval` asked: both versions, then the promotion."""

from __future__ import annotations

import json

import pytest
from toy_vila import Vila

from components.registry import Registry, Version
from tests.eval.benchmarks.samples_choice import make_pope
from tests.eval.tiny import write_tiny_vila
from vila_core.store import open_store, publish

pytestmark = pytest.mark.slow


def test_a_version_is_held_against_another_on_what_was_asked_of_both_later(vila: Vila) -> None:
    vila.env["XDG_CONFIG_HOME"] = str(vila.folder / "config")
    store, registry = open_store(vila.store), Registry(open_store(vila.store))
    for number in (1, 2):
        write_tiny_vila(vila.folder / f"vila{number}")
        (vila.folder / f"vila{number}" / "README.md").write_text(f"number {number}")
        model = publish(store, vila.folder / f"vila{number}")
        registry.register(Version("tiny", 0, model, "gone", str(number), {}, {}, {}))
    registry.move("tiny", "champion", 1, why="the first")
    make_pope(vila.folder / "files" / "pope")
    gates = vila.folder / "gates.yaml"
    gates.write_text("gates: [{non_inferior: {margin: 0.9, benchmarks: [pope]}}]")
    asked = ("promote", "tiny@2", "--to", "champion", "--gates", gates, "--dry-run")
    (verdict,) = json.loads(vila(*asked, "--json", code=1))["evidence"]["gates"]
    assert "no records of the model and the present version" in verdict["text"]
    assert "vila eval tiny@1 --benchmarks pope --data DIR" in verdict["details"]["fix"]

    runs = []
    for name in ("tiny@1", "tiny@2"):
        done = vila("eval", name, "--data", vila.folder / "files", "--runner", "inline", "--json")
        runs.append(json.loads(done)["run_id"])
    vila("eval", "tiny@2", "--data", vila.folder / "files", "--runner", "inline")  # from the cache
    (verdict,) = json.loads(vila(*asked, "--json", code=1))["evidence"]["gates"]
    assert verdict["details"]["difference"] == 0  # the same weights; two images prove nothing
    records = verdict["details"]["records"]
    assert [records[whose]["run_id"] for whose in ("present", "model")] == runs
    assert {records[whose]["task"] for whose in records} == {"eval-pope"}
    assert all(
        store.exists(f"artifacts/{one['results']}/records.jsonl") for one in records.values()
    )
    assert [records[whose]["passed_over"] for whose in records] == [[], []]
    shown = vila(*asked, code=1)
    assert f"pope@0: this model answered in {runs[1]}:eval-pope" in " ".join(shown.split())
