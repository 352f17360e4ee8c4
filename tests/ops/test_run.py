"""`vila run` with toy stages, through the real command line, driver, kfp.local and runtime."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_vila import Vila


def show(vila: Vila, run: str = "last") -> dict[str, Any]:
    return json.loads(vila("show", run, "--json"))


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {t["name"]: "cached" if t["cached"] else t["status"] for t in run["tasks"]}


def digests(run: dict[str, Any]) -> dict[str, str]:
    return {f"{t['name']}/{a['name']}": a["sha256"] for t in run["tasks"] for a in t["artifacts"]}


def test_a_run_is_recorded_shown_and_answered_from_the_cache_afterwards(vila: Vila, recipe: Path):
    printed = vila("run", recipe)
    assert "succeeded" in printed
    assert "58.0 %" in printed, "accuracy of the toy evaluation at 4 shots"
    first = show(vila)
    assert {key: first[key] for key in ("recipe", "status", "runner")} == {
        "recipe": "toy",
        "status": "succeeded",
        "runner": "subprocess",
    }
    assert [task["name"] for task in first["tasks"]] == ["source", "grow", "grow-twin", "judge"]
    assert set(statuses(first).values()) == {"succeeded"}
    assert all(task["exit_code"] == 0 for task in first["tasks"])
    assert first["metrics"]["toy_vqa/accuracy@4"] == pytest.approx(0.58)
    assert first["tasks"][1]["metrics"]["loss_first"] == 0.1
    assert first["data_versions"] == {"source": digests(first)["source/data"]}
    for task in first["tasks"]:
        for artifact in task["artifacts"]:
            folder = vila.store / "artifacts" / artifact["sha256"]
            assert artifact["uri"] == f"file://{folder}"
            assert (folder / "manifest.json").is_file()

    again = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vila_ops.cli.main", "run", str(recipe)],
        env=vila.env,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert not {"kfp", "torch", "transformers", "wandb"} & imported
    second = show(vila)
    assert set(statuses(second).values()) == {"cached"}
    assert digests(second) == digests(first)
    assert second["code_digest"] == first["code_digest"]
    listed = json.loads(vila("runs", "--json"))
    assert [run["run_id"] for run in listed] == [second["run_id"], first["run_id"]]

    why = vila("why", "last", "grow")
    assert f"came from the cache: run {first['run_id']}" in why


def test_a_changed_setting_reruns_its_task_and_what_follows(vila: Vila, recipe: Path):
    vila("run", recipe, "--name", "before")
    vila("run", recipe, "--name", "after", "--set", "grow.lr=0.2")
    assert statuses(show(vila, "after")) == {
        "source": "cached",
        "grow": "succeeded",
        "grow-twin": "cached",
        "judge": "succeeded",
    }
    assert "config lr: 0.1 -> 0.2" in vila("why", "after", "grow")
    judge = vila("why", "after", "judge")
    assert "input model:" in judge
    assert "made by task grow" in judge
    compared = json.loads(vila("compare", "before", "after", "--json"))
    assert compared["settings"] == {"grow.lr": [0.1, 0.2]}
    assert compared["metrics"]["toy_vqa/accuracy@0"] == [pytest.approx(0.18), pytest.approx(0.36)]
    assert "grow.lr" in vila("compare", "before", "after")


def test_inline_and_subprocess_give_the_same_artifacts(vila: Vila, recipe: Path, tmp_path: Path):
    vila("run", recipe)
    other = tmp_path / "other"
    vila("run", recipe, "--runner", "inline", "--store", other)
    inline = json.loads(vila("show", "last", "--json", "--store", other))
    assert inline["runner"] == "inline"
    assert digests(inline) == digests(show(vila))
    assert set(statuses(inline).values()) == {"succeeded"}


@pytest.mark.parametrize("runner", ["subprocess", "inline"])
@pytest.mark.parametrize(
    ("how", "exit_code", "message"),
    [
        ("user", 2, "corpora/toy.jsonl:3: the line is not JSON; fix or remove it."),
        ("crash", 1, "ValueError: the toy broke"),
        ("memory", 1, "out of memory"),
        ("killed", 137, "killed by signal 9"),
    ],
)
def test_a_failed_task_is_told_in_one_message(
    vila: Vila, recipe: Path, runner: str, how: str, exit_code: int, message: str
):
    if (runner, how) == ("inline", "killed"):
        pytest.skip("it would kill the driver: see test_control")
    printed = vila("run", recipe, "--runner", runner, "--set", f"source.fail={how}", code=1)
    assert message in printed
    assert "vila logs" in printed
    assert "vila resume" in printed
    failed = show(vila)
    assert failed["status"] == "failed"
    assert statuses(failed) == {
        "source": "failed",
        "grow": "not run",
        "grow-twin": "not run",
        "judge": "not run",
    }
    assert failed["tasks"][0]["exit_code"] == exit_code
    assert message in failed["tasks"][0]["error"]
    assert not list((vila.store / "artifacts").glob("*"))


def test_a_task_that_can_not_even_start_leaves_its_output(vila: Vila, recipe: Path, tmp_path: Path):
    text = recipe.read_text()
    compiled = Path(text.split("pipeline: ")[1].splitlines()[0])
    bad = tmp_path / "bad.yaml"
    bad.write_text(compiled.read_text().replace("import kfp\\n", "import not_installed\\n"))
    recipe.write_text(text.replace(str(compiled), str(bad)))
    printed = vila("run", recipe, code=1)
    assert "exit code 1 before it could say why" in printed
    assert "No module named 'not_installed'" in (
        next(vila.store.glob("runs/*/tasks/source/001/log.txt")).read_text()
    )


def test_logs_of_one_task_and_of_all(vila: Vila, recipe: Path):
    vila("run", recipe)
    assert "counting to 4" in vila("logs", "last", "source")
    everything = vila("logs", "last", "-f").splitlines()
    assert any(line.startswith("source    | ") and "counting to 4" in line for line in everything)
    assert any(line.startswith("grow-twin | ") for line in everything)


@pytest.mark.slow
def test_a_wandb_run_lies_with_the_record_and_costs_no_task(vila: Vila, recipe: Path):
    pytest.importorskip("wandb")
    vila("run", recipe, "--set", "tracking.wandb=offline")
    assert show(vila)["status"] == "succeeded"
    assert list(vila.store.glob("runs/*/tasks/grow/001/**/*.wandb"))


def test_a_store_that_can_not_be_written_is_told(vila: Vila, recipe: Path):
    vila.store.write_text("a file, not a folder")
    printed = vila("run", recipe, code=2)
    assert str(vila.store) in printed
    assert "--store" in printed
