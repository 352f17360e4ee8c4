"""`vila compare --paired` and `vila noise`: on records that evaluations of known scores leave."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.registry.noise import NoiseLedger
from components.runtime import run_stage
from components.runtime.record import create_run, end_run
from tests.runtime.toy_task import Artifact, Metrics
from vila_core.errors import UserError
from vila_core.eval.significance import binomial_two_sided
from vila_core.store import Store, open_store
from vila_ops.noise import add_arms, add_runs, arms_of, known_noise
from vila_ops.paired import Row, compare_paired
from vila_ops.reproduce.grid import Cell, Grid

Rows = list[dict[str, Any]]


def answers(task: str, scores: Sequence[float | None], **values: Any) -> Rows:
    fixed = {"task": task, "shots": 0, "condition": "seen", "prompt_digest": "p", **values}
    return [{"key": f"q{i}", "score": score, **fixed} for i, score in enumerate(scores)]


Make = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def make(store: Store) -> Make:
    """Make a run with an evaluation per keyword, and settings that may differ; return its id."""

    def make(name: str, settings: dict[str, Any] | None = None, **evaluations: Any) -> str:
        named = {task.replace("_", "-"): rows for task, rows in evaluations.items()}
        run_id = f"{name}-1125-000000-0000"
        run = {"name": name, "recipe": "toy", "runner": "inline", "code_digest": "c"}
        tasks = [[task, "toy_exam"] for task in named]
        more = {"config": settings or {}, "config_digest": "d", "tasks": tasks}
        create_run(store, {"run_id": run_id, **run, **more})
        for task, rows in named.items():
            config = rows if isinstance(rows, dict) else {"rows": rows}
            context = {"store": store.uri, "run_id": run_id, "driver_pid": os.getpid()}
            run_stage(
                stage="toy_exam",
                context=json.dumps({**context, "tracking": "disabled"}),
                task=task,
                config=json.dumps(config),
                inputs={},
                outputs={"results": Artifact()},
                metrics=Metrics(),
            )
        end_run(store, run_id, "succeeded")
        return run_id

    return make


def by_name(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_each_benchmark_is_tested_and_corrected_for_all(store: Store, make: Make) -> None:
    a = [1.0] * 60 + [0.0] * 40
    b = [1.0] * 58 + [0.0] * 2 + [1.0] * 16 + [0.0] * 24
    soft = [0.3, 0.6, 0.9, 1.0] * 25
    make("one", evaluate=[*answers("vqa", a), *answers("soft", soft), *answers("same", a)])
    make("two", evaluate=[*answers("vqa", b), *answers("soft", soft[::-1]), *answers("same", a)])
    rows = by_name(compare_paired(store, "one", "two").rows)
    vqa = rows["vqa@0"]
    assert vqa.test == "McNemar, exact"
    assert (vqa.first, vqa.second) == (0.6, 0.74)
    assert vqa.difference == pytest.approx(0.14)
    assert vqa.p == binomial_two_sided(2, 18)
    assert vqa.p_holm == pytest.approx(3 * vqa.p)
    assert vqa.verdict == "better"
    error = (((18 - 100 * 0.14**2) / 99) / 100) ** 0.5
    assert vqa.detectable == pytest.approx(error * (2.3940 + 0.8416), rel=1e-3)
    assert 0 < vqa.low < 0.14 < vqa.high
    assert rows["soft@0"].test == "permutation"
    assert rows["soft@0"].verdict == "no difference found"
    assert rows["same@0"].p == rows["same@0"].p_holm == 1.0
    assert rows["same@0"].detectable is None
    back = by_name(compare_paired(store, "two", "one").rows)
    assert back["vqa@0"].verdict == "worse"
    assert back["vqa@0"].p == vqa.p


def test_questions_that_depend_on_each_other_are_one_unit(store: Store, make: Make) -> None:
    def pairs(scores: Sequence[float]) -> Rows:
        made = answers("mme", scores)
        return [{**row, "unit": f"image{index // 2}"} for index, row in enumerate(made)]

    make("one", eval_mme=pairs([0.0] * 20))
    make("two", eval_mme=pairs([1.0] * 12 + [0.0] * 8))
    (row,) = compare_paired(store, "one", "two").rows
    assert (row.questions, row.units, row.test) == (20, 10, "permutation")
    assert row.p == 2 / 2**6  # six images, not twelve questions


def test_draws_of_demonstrations_are_averaged_and_controls_left_out(
    store: Store, make: Make
) -> None:
    def drawn(*trials: Sequence[float]) -> Rows:
        made = [answers("vqa", t, shots=4, seed=seed) for seed, t in enumerate(trials)]
        return [row for trial in made for row in trial]

    blind = answers("vqa", [1.0, 1.0], shots=4, condition="blind")
    make("one", evaluate=[*drawn([1.0, 0.0], [0.0, 0.0]), *blind])
    make("two", evaluate=drawn([1.0, 1.0], [1.0, 0.0]))
    (row,) = compare_paired(store, "one", "two").rows
    assert (row.name, row.questions, row.first, row.second) == ("vqa@4", 2, 0.25, 0.75)


def test_what_is_not_compared_is_said(store: Store, make: Make) -> None:
    one = [*answers("vqa", [1.0, 0.0, 1.0]), *answers("old", [1.0], version="1")]
    one += [*answers("secret", [None]), *answers("mine", [1.0])]
    two = [*answers("vqa", [1.0, 1.0], prompt_digest="other"), *answers("old", [1.0], version="2")]
    two += answers("secret", [None])
    make("one", evaluate=one)
    make("two", evaluate=two)
    found = compare_paired(store, "one", "two")
    (row,) = found.rows
    assert (row.name, row.questions, row.left_out, row.other_prompts) == ("vqa@0", 2, 1, 2)
    assert found.skipped["old@0"].startswith("asked by different versions of the benchmark (1 and")
    assert found.skipped["secret@0"].startswith("scores are not known here")
    assert found.skipped["mine@0"] == "only in one-1125-000000-0000"


def test_two_evaluations_of_one_run(store: Store, make: Make) -> None:
    arms = {"frozen": answers("vqa", [0.0] * 8), "unfrozen": answers("vqa", [1.0] * 8)}
    make("arms", **arms)
    make("empty", evaluate=answers("vqa", []))
    (row,) = compare_paired(store, "arms:frozen", "arms:unfrozen").rows
    assert (row.difference, row.p) == (1.0, 2 / 2**8)
    with pytest.raises(UserError, match=r"several evaluations of vqa; name one .*0000:frozen or"):
        compare_paired(store, "arms", "arms:frozen")
    with pytest.raises(UserError, match="has no task 'frozn'; did you mean 'frozen'"):
        compare_paired(store, "arms:frozn", "arms:frozen")
    with pytest.raises(UserError, match=r"no scored question in common \(vqa@0: only in arms"):
        compare_paired(store, "arms:frozen", "empty")


def test_runs_without_records(store: Store, make: Make) -> None:
    make("one", evaluate=answers("vqa", [1.0]))
    make("none")
    make("broken", evaluate={"rows": answers("vqa", [1.0]), "broken": True})
    with pytest.raises(UserError, match=r"none-.* has no records of an evaluation; finish"):
        compare_paired(store, "one", "none")
    with pytest.raises(UserError, match=r"records.jsonl:2: is not a record"):
        compare_paired(store, "one", "broken")


def seeded(seed: int, **settings: Any) -> dict[str, Any]:
    return {"sft": {"train": {"seed": seed, "lr": 0.1, **settings}}}


def test_noise_comes_from_runs_that_differ_in_seeds_alone(store: Store, make: Make) -> None:
    for seed, right in enumerate((50, 54, 58)):
        scores = [1.0] * right + [0.0] * (100 - right)
        make(f"s{seed}", seeded(seed), evaluate=answers("vqa", scores))
    make("again", seeded(0), evaluate=answers("vqa", [1.0]))
    make("other", seeded(3, lr=0.2), evaluate=answers("vqa", [1.0]))
    make("none", seeded(4))
    assert known_noise(store, runs=["s0-1125-000000-0000"]) == {}
    assert add_runs(store, ["s0", "s1", "s2", "s0"], "tiny").new == 3
    assert add_runs(store, ["s0", "s1"], "tiny").new == 0
    spread = known_noise(store, "tiny")["vqa/accuracy@0"]
    assert (spread.deviation, spread.freedom) == (pytest.approx(0.04), 2)
    for texts, message in (
        (["s0"], "two or more runs"),
        (["s0", "again"], "have the same seeds"),
        (["s0", "other"], "differ in more than seeds: sft.train.lr is 0.1 and 0.2"),
        (["s0", "none"], "none-.* has no metrics"),
    ):
        with pytest.raises(UserError, match=message):
            add_runs(store, texts, "tiny")
    with pytest.raises(UserError, match=r"--size tinny: .*did you mean 'tiny'"):
        known_noise(store, "tinny")
    assert len(NoiseLedger(store).entries("tiny")) == 3
    ours, other = "s1-1125-000000-0000", "other-1125-000000-0000"
    assert known_noise(store, runs=[other, ours]) == known_noise(store, "tiny")
    assert known_noise(store, runs=[other]) == {}
    add_runs(store, ["s0", "s1"], "also")
    assert known_noise(store, runs=[ours]) == {}  # which of the two?


def test_arms_of_one_run_are_groups_of_their_own(store: Store) -> None:
    arms = {
        "frozen": {0: {"vqa/accuracy@0": 0.1}, 1: {"vqa/accuracy@0": 0.3}},
        "unfrozen": {0: {"vqa/accuracy@0": 0.8}, 1: {"vqa/accuracy@0": 0.8}, 2: {}},
    }
    assert add_arms(store, "tiny", arms, "run-1") == 4
    assert add_arms(store, "tiny", arms, "run-1") == 0
    spread = known_noise(store, runs=["run-1"])["vqa/accuracy@0"]
    assert (spread.freedom, spread.groups) == (2, 2)
    assert spread.deviation == pytest.approx(0.1)
    assert add_arms(store, "tiny", {"frozen": {5: {"vqa/accuracy@0": 0.9}}}, "run-2") == 1
    assert known_noise(store, "tiny")["vqa/accuracy@0"].deviation == spread.deviation


def test_a_model_that_findings_share_counts_once() -> None:
    grid = Grid()
    for owner in ("freezing", "blending"):
        for seed in (0, 1):
            cell = Cell(owner, "unfrozen", seed, "sft")
            grid.measured[cell] = {"text": f"text-{seed}", "visual": f"visual-{seed}"}
            grid.trained[cell] = f"sft-{seed}"
    metrics = {
        f"{name}-{seed}": {f"{name}@0": seed} for name in ("text", "visual") for seed in (0, 1)
    }
    assert arms_of(grid, metrics) == {
        "freezing/unfrozen/sft": {seed: {"text@0": seed, "visual@0": seed} for seed in (0, 1)}
    }


def test_on_the_command_line(vila: Any, make: Make) -> None:
    for seed, right in enumerate((50, 54, 58)):
        scores = [1.0] * right + [0.0] * (100 - right)
        make(f"s{seed}", seeded(seed), evaluate=answers("vqa", scores))
    assert "nothing is known yet" in vila("noise", "show")
    assert "±" not in vila("compare", "s0", "s2")
    assert "was not started by vila reproduce" in vila("noise", "add", "s0", code=2)
    assert "--size: of which size" in vila("noise", "add", "s0", "s1", code=2)
    assert "3 runs of size tiny, 3 of them new" in vila(
        "noise", "add", "s0", "s1", "s2", "--size", "tiny"
    )
    assert "vqa/accuracy@0     0.0400         ±0.2434" in vila("noise", "show")
    assert "±0.243, within" in vila("compare", "s0", "s2")
    text = vila("compare", "s0", "s2", "--paired")
    assert "vqa@0" in text
    assert "better, within seeds" in text
    assert "McNemar, exact, corrected for 1 test (Holm)" in text
    found = json.loads(vila("compare", "s0", "s2", "--paired", "--json"))
    assert found["rows"][0]["p"] == 2 / 2**8
    assert found["rows"][0]["verdict"] == "better"
    assert "--paired compares two runs" in vila("compare", "s0", "s1", "s2", "--paired", code=2)
