from collections.abc import Callable
from pathlib import Path

import pytest

from vila_core.errors import UserError
from vila_ops.recipes import load_recipe


def test_a_recipe_is_resolved_with_the_defaults_of_the_stages(recipe: Path):
    resolved = load_recipe(str(recipe)).resolved()
    assert resolved["source"] == {"count": 4, "seconds": 0.0, "fail": "no"}
    assert resolved["judge"] == {"shots": [0, 4]}
    assert resolved["tracking"]["wandb"] == "disabled"


def test_an_override_changes_the_digest_and_only_its_section(recipe: Path):
    before, after = load_recipe(str(recipe)), load_recipe(str(recipe), ["grow.lr=2e-1"])
    assert after.configs["grow"].lr == 0.2
    assert before.digest() != after.digest()
    assert before.configs["grow_twin"] == after.configs["grow_twin"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grow.stepz=3", "--set: grow.stepz: unknown key; did you mean 'steps'?"),
        ("grow.steps=many", "--set: grow.steps: 'many' is not valid"),
        ("grwo.steps=3", "--set: grwo: unknown section; did you mean 'grow'?"),
        ("grow=3", "--set: grow: a mapping"),
        ("grow.steps", "expected KEY=VALUE"),
        ("tracking.wandb=sometimes", "--set: tracking.wandb: 'sometimes' is not valid"),
    ],
)
def test_a_wrong_override_is_named(recipe: Path, override: str, message: str):
    with pytest.raises(UserError) as caught:
        load_recipe(str(recipe), [override])
    assert message in str(caught.value)


def test_a_mistake_in_the_file_is_told_with_the_file(recipe: Path):
    recipe.write_text(recipe.read_text().replace("steps: 3", "stepz: 3"))
    with pytest.raises(
        UserError, match=r"toy\.yaml: grow\.stepz: unknown key; did you mean 'steps'"
    ):
        load_recipe(str(recipe), ["grow.lr=0.5"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "did you mean 'quickstart'?"),
        ("nothing-like-it", "known: quickstart"),
        ("missing.yaml", "there is no such file of a recipe"),
    ],
)
def test_an_unknown_recipe_is_told_with_the_nearest(name: str, message: str):
    with pytest.raises(UserError) as caught:
        load_recipe(name)
    assert message in str(caught.value)


def test_an_unknown_pipeline_is_told(write_yaml: Callable[..., Path]):
    with pytest.raises(UserError, match="there is no 'recipee'; known: prepare_parallel, recipe"):
        load_recipe(str(write_yaml("x.yaml", pipeline="recipee")))
