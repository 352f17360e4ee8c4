from pathlib import Path

import pytest

from pipelines.compile import COMPILED, compile_pipeline
from vila_core.errors import UserError
from vila_ops.driver.graph import load_graph

EXPECTED = {
    "prepare": ("prepare", {}),
    "vision-tower": ("vision_tower", {}),
    "language-model": ("language_model", {}),
    "align": (
        "align",
        {
            "data": ("prepare", "data"),
            "vision_tower": ("vision-tower", "model"),
            "language_model": ("language-model", "model"),
        },
    ),
    "pretrain": ("pretrain", {"data": ("prepare", "data"), "base": ("align", "model")}),
    "sft": ("sft", {"data": ("prepare", "data"), "base": ("pretrain", "model")}),
    "evaluate-base": (
        "evaluate",
        {"data": ("prepare", "data"), "model": ("language-model", "model")},
    ),
    "evaluate-pretrain": (
        "evaluate",
        {"data": ("prepare", "data"), "model": ("pretrain", "model")},
    ),
    "evaluate": ("evaluate", {"data": ("prepare", "data"), "model": ("sft", "model")}),
    "register": (
        "register",
        {
            "model": ("sft", "model"),
            "results": ("evaluate", "results"),
            "baseline": ("evaluate-base", "results"),
        },
    ),
}


def test_compiling_gives_the_committed_file_byte_for_byte(tmp_path: Path):
    compile_pipeline("recipe", tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_bytes() == (COMPILED / "recipe.yaml").read_bytes(), (
        "run: python -m pipelines.compile"
    )


def test_the_recipe_has_the_tasks_and_edges_that_the_design_names():
    graph = load_graph(COMPILED / "recipe.yaml")
    assert {t.name: (t.stage, dict(t.inputs)) for t in graph.tasks.values()} == EXPECTED
    for task in graph.tasks.values():
        assert task.parameters["task"].constant == task.name
        assert task.config_key == task.name.replace("-", "_")


def test_tasks_come_after_what_they_need_and_the_longest_chain_first():
    graph = load_graph(COMPILED / "recipe.yaml")
    names = list(graph.tasks)
    for name, task in graph.tasks.items():
        assert all(names.index(other) < names.index(name) for other in task.depends_on)
    assert graph.urgency["align"] > graph.urgency["evaluate-base"]


@pytest.mark.parametrize("text", ["a: [", "a: 1", "[]", "root: {dag: {tasks: {x: {}}}}"])
def test_a_file_that_is_no_pipeline_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml: is not a compiled pipeline"):
        load_graph(path)
