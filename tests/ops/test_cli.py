"""The command line's own manners: speed, mistakes, registry, doctor, tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_vila import Vila

from components.registry import Registry, Version
from vila_core.errors import UserError
from vila_core.store import open_store, publish
from vila_ops.ask import lay_out
from vila_ops.cli import accuracy, render
from vila_ops.view import RunView, TaskView

HEAVY = {
    "kfp",
    "torch",
    "transformers",
    "wandb",
    "minio",
    "pyarrow",
    "rich.table",
    "yaml",
}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["registry", "--help"]])
def test_help_imports_nothing_heavy(vila: Vila, arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vila_ops.cli.main", *arguments],
        env={**vila.env, "PYTHONPATH": ""},  # the toys' sitecustomize imports packages
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = HEAVY | {"pydantic"} if arguments == ["--help"] else HEAVY  # typer checks with it
    assert not heavy & imported
    assert "Usage: vila" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runz"], "No such command 'runz'. Did you mean 'run'"),
        (["run", "quickstrat"], "did you mean 'quickstart'?"),
        (["run", "missing.yaml"], "missing.yaml: there is no such file of a recipe"),
        (["run", "quickstart", "--runner", "docker"], "'docker' is not one of"),
        (["run", "quickstart", "--set", "sft.train.lrr=1"], "did you mean 'lr'?"),
        (["run", "quickstart", "--name", "a/b"], "--name 'a/b'"),
        (["show", "last"], "start one with: vila run quickstart"),
        (["compare", "last"], "two or more runs are needed"),
        (["registry", "show", "x"], "no model 'x' is registered"),
        (["registry", "show", "x@1"], "no model 'x' is registered"),
        (["ask", "x@1", "missing.png", "what?"], "missing.png: can't be read"),
        (["--store", "ftp://x", "runs"], "is not a store"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(vila: Vila, arguments: list[str], message: str):
    assert message in vila(*arguments, code=2)


def test_runs_are_found_by_id_beginning_and_name(vila: Vila, recipe: Path):
    for name in ("one", "two"):
        vila("run", recipe, "--runner", "inline", "--name", name)
    newest, oldest = (run["run_id"] for run in json.loads(vila("runs", "--json")))
    for text, run_id in (("one", oldest), ("two", newest), ("last", newest), (oldest[:6], oldest)):
        assert json.loads(vila("show", text, "--json"))["run_id"] == run_id
    assert "did you mean 'one'?" in vila("show", "onee", code=2)
    assert "did you mean 'grow'?" in vila("logs", "one", "gorw", code=2)
    assert "has succeeded" in vila("resume", "one", code=2)


def test_the_registry_is_listed_and_shown(vila: Vila, tmp_path: Path):
    assert "nothing is registered" in vila("registry", "list")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    store = open_store(vila.store)
    registry = Registry(store)
    for run in ("r1", "r2"):
        registry.register(
            Version(
                model="toy",
                number=0,
                artifact=publish(store, folder),
                run_id=run,
                key=run,
                metrics={"toy_vqa/accuracy@0": 0.5},
                evidence={"passed": True, "gates": [{"passed": True, "text": "it is fine"}]},
                lineage={"tasks": {"grow": {"key": "abcdef0123456789"}}},
            )
        )
    registry.move("toy", "candidate", 2, why="the gates passed")
    listed = json.loads(vila("registry", "list", "--json"))
    assert [(row["name"], row["aliases"]) for row in listed] == [
        ("toy@2", ["candidate"]),
        ("toy@1", []),
    ]
    shown = vila("registry", "show", "toy@candidate")
    for text in ("toy@2", "r2", "it is fine", "toy_vqa/accuracy@0", "abcdef012345"):
        assert text in shown
    history = json.loads(vila("registry", "show", "toy", "--json"))["history"]
    assert (history[0]["alias"], history[0]["before"], history[0]["after"]) == (
        "candidate",
        None,
        2,
    )
    assert "the gates passed" in vila("registry", "show", "toy")
    assert "did you mean 'candidate'?" in vila("registry", "show", "toy@candidat", code=2)
    assert "fix: toy@candidate" in vila("ask", "toy", "what?", code=2)


@pytest.mark.slow
def test_doctor_examines_what_runs_need(vila: Vila):
    found = {check["name"]: check for check in json.loads(vila("doctor", "--json"))}
    assert found["extra pipeline"]["level"] == "ok"
    assert "2.17" in found["extra pipeline"]["detail"]
    assert found["store"]["level"] == "ok"
    assert found["torch"]["detail"].startswith("2.13")


def test_doctor_tells_a_store_that_can_not_be_written(vila: Vila):
    vila.store.write_text("a file")
    printed = vila("doctor", code=1)
    assert "x  store" in printed.replace("   ", "  ") or "x  store" in printed
    assert "fix: choose another" in printed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.4, "59 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds: float | None, text: str):
    assert render.duration(seconds) == text


def view(*tasks: TaskView) -> RunView:
    return RunView("r", "r", "r", "inline", "succeeded", "2026", 1.0, "c", "d", {}, tasks)


def evaluation(name: str, knowledge: float, icl4: float) -> TaskView:
    metrics = {
        "knowledge/accuracy@0": knowledge,
        "knowledge/chance@0": 0.1,
        "icl/accuracy@0": 0.3,
        "icl/accuracy@4": icl4,
        "icl/blind_accuracy@0": 0.05,
        "icl.color/accuracy@0": 0.99,
    }
    return TaskView(name, "evaluate", "succeeded", metrics=metrics)


def test_the_final_tables_show_shots_beside_blind_and_text_before_and_after():
    run = view(
        evaluation("evaluate-base", 0.9, 0.2),
        evaluation("evaluate-pretrain", 0.7, 0.8),
        evaluation("evaluate", 0.85, 0.6),
    )
    out = render.console()
    with out.capture() as captured:
        for table in accuracy.tables(run):
            out.print(table)
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert lines == [
        "accuracy with images, after sft",
        "task 0-shot 4-shot blind chance",
        "icl 30.0 % 60.0 % 5.0 %",
        "few-shot accuracy with images, after pretrain",
        "task 0-shot 4-shot blind chance",
        "icl 30.0 % 80.0 % 5.0 %",
        "accuracy on text only",
        "task before after pretrain after sft chance",
        "knowledge 90.0 % 70.0 % 85.0 % 10.0 %",
    ]


def test_the_metrics_of_a_run_are_those_of_its_last_evaluation():
    run = view(evaluation("evaluate", 0.85, 0.6), evaluation("evaluate-base", 0.9, 0.2))
    assert run.metrics["knowledge/accuracy@0"] == 0.85


def test_prompts_are_laid_out_as_in_training():
    assert lay_out("q color of object", 1, "miniature") == "scene <image> . q color of object a"
    assert lay_out("2 plus 3", 0, "miniature") == "2 plus 3 a"
    assert lay_out("what?", 2, "vicuna_v1").endswith("USER: <image>\n<image>\nwhat? ASSISTANT:")
    assert "left <image> right <image>?" in lay_out("left <image> right <image>?", 2, "vicuna_v1")
    with pytest.raises(UserError, match="2 <image> places for 1 images"):
        lay_out("<image> <image>", 1, "plain")


def test_a_live_table_of_many_tasks_shows_those_that_run():
    from dataclasses import replace

    from rich.console import Console

    from vila_ops.cli.render import MOST_ROWS, live_table
    from vila_ops.view import RunView, TaskView

    tasks = [TaskView(f"t{n}", "grow", "succeeded") for n in range(MOST_ROWS)]
    few = RunView("r1", "r", "toys", "inline", "running", "", 1.0, "", "", {}, tuple(tasks))
    many = replace(few, tasks=(*tasks, TaskView("busy", "grow", "running")))
    shown = []
    for run in (few, many):
        console = Console(width=120)
        with console.capture() as capture:
            console.print(live_table(run))
        shown.append(capture.get())
    assert "t7" in shown[0]
    assert "t7" not in shown[1]
    assert "busy" in shown[1]
    assert f"{MOST_ROWS} of {MOST_ROWS + 1} tasks done" in shown[1]
