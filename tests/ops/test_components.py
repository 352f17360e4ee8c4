import ast
import importlib
import inspect
import textwrap

import pytest
import yaml

from pipelines.compile import COMPILED

STAGES = (
    "prepare",
    "vision_tower",
    "language_model",
    "align",
    "pretrain",
    "sft",
    "evaluate",
    "register",
)


@pytest.mark.parametrize("stage", STAGES)
def test_a_component_only_calls_its_stage(stage: str):
    component = getattr(importlib.import_module(f"components.{stage}"), stage)
    function = component.python_func
    assert list(inspect.signature(function).parameters)[:3] == ["context", "task", "config"]
    body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body
    assert len(body) == 3, "docstring, import, call"
    call = body[2].value
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    assert call.func.id == "run_stage"
    assert ast.literal_eval(arguments["stage"]) == stage
    for group in ("inputs", "outputs"):  # every artifact is passed on under its own name
        keys = [key.value for key in arguments[group].keys]
        assert keys == [value.id for value in arguments[group].values]


def test_no_component_installs_anything_or_sets_resources():
    spec = yaml.safe_load((COMPILED / "recipe.yaml").read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        assert "pip" not in " ".join(container["command"])
        assert container["image"].startswith("vila-platform/")
        assert "resources" not in container
