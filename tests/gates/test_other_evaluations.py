"""Paired gates on evaluations that are not the version's own: `vila eval` of the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_evaluations import evaluated_later, evaluation, rows, version

from components.registry import Registry
from components.registry.gates.verdict import Verdict
from components.runtime.record import AttemptWriter, create_run
from vila_core.jsonio import digest
from vila_core.store import Store, open_store
from vila_ops.lineage.index import KEY
from vila_ops.registry.promote import Judgement, judge_promotion

PRESENT, MODEL = digest("before"), digest("after")
"""The weights of mini@1, where champion stands, and of mini@2."""
OWN = rows("vqa", [1.0] * 400)
POPE = rows("pope", [1.0] * 350 + [0.0] * 50)
WORSE = rows("pope", [1.0] * 250 + [0.0] * 150)
SHARED = [{"non_inferior": {"margin": 0.05}}]
ON_POPE = [{"non_inferior": {"margin": 0.05, "benchmarks": ["pope"]}}]


class Made:
    """Two versions that were both asked `vqa`, and what is evaluated of them later."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        for key in ("before", "after"):
            version(store, self.results(OWN), key)
        Registry(store).move("mini", "champion", 1, why="the first")

    def results(self, records: Sequence[dict[str, Any]], **summary: Any) -> str:
        return evaluation(self.store, self.folder / "results", records, **summary)

    def later(
        self, run_id: str, model: str, records: Sequence[dict[str, Any]], at: str, **summary: Any
    ) -> str:
        results = self.results(records, **summary)
        evaluated_later(self.store, model, results, run_id, at)
        return results

    def judge(self, gates: Sequence[dict[str, Any]], what: str = "mini@2") -> Judgement:
        path = self.folder / "gates.yaml"
        path.write_text(json.dumps({"gates": gates}))
        return judge_promotion(self.store, what, "champion", gates=str(path), who="ada")

    def verdict(self, gates: Sequence[dict[str, Any]] = ON_POPE) -> Verdict:
        (found,) = self.judge(gates).verdicts
        return found


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(open_store(tmp_path / "store"), tmp_path)


def told(verdict: Verdict) -> dict[str, str]:
    return {whose: one["run_id"] for whose, one in verdict.details["records"].items()}


def test_what_both_were_asked_later_is_compared_and_named(made: Made) -> None:
    assert [one.details["gate"] for one in made.judge(SHARED).verdicts] == ["vqa@0"]
    present = made.later("e-before", PRESENT, POPE, "08:00")
    ours = made.later("e-after", MODEL, POPE, "09:00")
    found = made.judge(SHARED)
    vqa, pope = found.verdicts
    assert [one.details["gate"] for one in (vqa, pope)] == ["vqa@0", "pope@0"]
    assert pope.details["records"] == {
        "model": {
            "results": ours,
            "run_id": "e-after",
            "task": "eval-pope",
            "ended_at": "2026-11-29T09:00:00.000+00:00",
            "own": False,
            "passed_over": [],
        },
        "present": {
            "results": present,
            "run_id": "e-before",
            "task": "eval-pope",
            "ended_at": "2026-11-29T08:00:00.000+00:00",
            "own": False,
            "passed_over": [],
        },
    }
    assert vqa.details["records"]["model"]["own"] is True
    assert pope.details["tests"] == 2  # corrected over what came later, too
    assert Registry(made.store).version("mini", 2).results == found.evidence["results"]


def test_its_own_evaluation_counts_before_any_later_one(made: Made) -> None:
    made.later("e-better", MODEL, rows("vqa", [1.0] * 400, unit="one"), "09:00")
    made.later("e-worse", PRESENT, rows("vqa", [0.0] * 400), "09:00")
    verdict = made.verdict(SHARED)
    assert verdict.details["difference"] == 0
    assert told(verdict) == {"model": "r-old", "present": "r-old"}
    assert verdict.details["records"]["present"]["passed_over"] == ["e-worse:eval-pope"]


def test_asking_again_until_it_looks_good_changes_nothing(made: Made) -> None:
    made.later("e-before", PRESENT, POPE, "08:00")
    made.later("e-first", MODEL, WORSE, "09:00")
    assert not made.verdict().passed
    made.later("e-second", MODEL, POPE, "10:00")
    made.later("e-third", PRESENT, WORSE, "11:00")
    verdict = made.verdict()
    assert not verdict.passed
    assert told(verdict) == {"model": "e-first", "present": "e-before"}
    passed_over = {whose: one["passed_over"] for whose, one in verdict.details["records"].items()}
    assert passed_over == {"model": ["e-second:eval-pope"], "present": ["e-third:eval-pope"]}


def test_those_count_that_asked_both_in_the_same_way(made: Made) -> None:
    made.later("e-old", PRESENT, WORSE, "08:00", version="1", layout="chat")
    made.later("e-after", MODEL, POPE, "09:00", version="2", layout="chat")
    assert told(made.verdict()) == {"model": "e-after", "present": "e-old"}
    made.later("e-new", PRESENT, POPE, "10:00", version="2", layout="chat")
    made.later("e-plain", PRESENT, WORSE, "07:00", version="2", layout="plain")
    verdict = made.verdict()
    assert told(verdict) == {"model": "e-after", "present": "e-new"}
    assert verdict.details["difference"] == 0


def test_a_part_of_a_benchmark_is_no_evaluation_of_it(made: Made) -> None:
    made.later("e-before", PRESENT, POPE, "08:00")
    made.later("e-part", MODEL, POPE[:9], "09:00", questions={"asked": 9, "in_split": 400})
    verdict = made.verdict()
    assert not verdict.passed
    assert "no records of the model (e-part:eval-pope asked only a part of pope)" in verdict.text
    made.later("e-all", MODEL, POPE, "10:00", questions={"asked": 400, "in_split": 400})
    part = made.verdict().details["records"]["model"]
    assert (part["run_id"], part["passed_over"]) == ("e-all", ["e-part:eval-pope"])


def test_what_is_no_finished_evaluation_of_these_weights_does_not_count(made: Made) -> None:
    made.later("e-before", PRESENT, POPE, "08:00")
    results = made.later("e-other", digest("another model"), POPE, "09:00")
    about = {"name": "e", "recipe": "e", "config_digest": "", "code_digest": ""}
    create_run(made.store, {"run_id": "e-failed", **about})
    parts = {"stage": "benchmark", "config": {"model": MODEL}, "inputs": {}}
    AttemptWriter(made.store, "e-failed", "eval-pope", {"key_parts": parts}).finish(
        {"status": "failed", "outputs": {"results": {"uri": "", "sha256": results}}}
    )
    assert "no records of the model" in made.verdict().text


def test_a_later_evaluation_that_was_damaged_fails_and_is_not_left_out(made: Made) -> None:
    made.later("e-before", PRESENT, POPE, "08:00")
    results = made.later("e-after", MODEL, POPE, "09:00")
    made.store.write(f"artifacts/{results}/records.jsonl", b"{}\n")
    vqa, pope = sorted(made.judge(SHARED).verdicts, key=lambda one: one.details["gate"] == "pope@0")
    assert vqa.details["gate"] == "vqa@0"
    assert not pope.passed
    assert "does not match its digest" in pope.text


def test_an_own_evaluation_that_is_gone_is_not_made_up_for(made: Made) -> None:
    made.later("e-before", PRESENT, POPE, "08:00")
    made.later("e-after", MODEL, POPE, "09:00")
    own = Registry(made.store).version("mini", 2).results
    folder = made.store.local_path(f"artifacts/{own}")
    assert folder is not None
    (folder / "records.jsonl").chmod(0o644)
    (folder / "records.jsonl").write_text("{}\n")
    assert not made.judge(SHARED).passed


def test_a_broken_index_and_a_missing_one_are_made_again(made: Made) -> None:
    made.later("e-before", PRESENT, POPE, "08:00")
    made.later("e-after", MODEL, POPE, "09:00")
    for _ in range(2):
        assert len(made.judge(SHARED).verdicts) == 2
        made.store.write(KEY, b"no index")


def test_in_a_bucket(s3_store: Store, tmp_path: Path) -> None:
    made = Made(s3_store, tmp_path)
    made.later("e-before", PRESENT, POPE, "08:00")
    made.later("e-after", MODEL, POPE, "09:00")
    for number in range(8):  # enough news for the index to be kept
        made.later(f"e-more-{number}", digest(["other", number]), POPE, "09:00")
    assert told(made.verdict()) == {"model": "e-after", "present": "e-before"}
    assert made.store.etag(KEY) is not None
    assert told(made.verdict()) == {"model": "e-after", "present": "e-before"}
