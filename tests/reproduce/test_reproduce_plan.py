"""What an ablation's files say, and what is told when they say it wrongly."""

import copy
from collections import Counter
from typing import Any

import pytest
from tiny_ablation import FINDING, TINY, WriteYaml

from vila_core.errors import UserError
from vila_core.jsonio import digest
from vila_ops.reproduce.config import Plan, finding_files, load_plan, size_files
from vila_ops.reproduce.grid import Cell, build_grid, merge
from vila_ops.reproduce.runs import recipe_of

MAIN = ["freezing", "interleaving", "blending"]


@pytest.fixture
def tiny(write: WriteYaml) -> str:
    return write("tiny.yaml", TINY)


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    finding = copy.deepcopy(FINDING)
    node = finding
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return finding


def inputs(plan: Plan, name: str) -> dict[str, str]:
    nodes = {node.name: node for node in build_grid(plan).nodes}
    return {key: source for key, (source, _) in nodes[name].inputs.items()}


PAIRS = [(one, size) for one in sorted(finding_files()) for size in sorted(size_files())]
NOT_MEASURED = ("alignment", "paper")


@pytest.mark.parametrize(("finding", "size"), [pair for pair in PAIRS if pair != NOT_MEASURED])
def test_every_finding_fits_every_size(finding: str, size: str):
    plan = load_plan([finding], size, 3)
    grid = build_grid(plan)
    recipe_of(plan, grid)  # every stage takes its config
    for effect in plan.findings[finding].effects:
        for arm in (effect.arm, effect.minus):
            assert Cell(finding, arm, 2, effect.after) in grid.measured


def test_a_finding_that_a_size_cannot_measure_is_told():
    with pytest.raises(UserError, match="its headline effects can't be measured at this size"):
        load_plan([NOT_MEASURED[0]], NOT_MEASURED[1], 3)


def test_what_a_size_cannot_measure_is_left_out():
    plan = load_plan(["interleaving", "blending"], "paper", 3)
    assert [column.measure for column in plan.findings["interleaving"].table] == [
        "zero-shot",
        "four-shot",
        "text",
    ]
    assert {effect.measure for effect in plan.findings["blending"].effects} == {"text", "visual"}
    grid = build_grid(plan)
    assert {node.component for node in grid.nodes} >= {"benchmark", "text_benchmark"}
    assert "data" not in inputs(plan, "okvqa-pretrain-mmc4-s0")


def test_what_findings_share_is_one_task():
    alone = {name: build_grid(load_plan([name], "miniature", 3)) for name in MAIN}
    together = build_grid(load_plan(MAIN, "miniature", 3))
    assert len(together.nodes) < sum(len(grid.nodes) for grid in alone.values())
    counts = Counter(node.component for node in together.nodes)
    assert (counts["vision_tower"], counts["language_model"], counts["align"]) == (1, 3, 3)
    cells = [
        Cell("freezing", "unfrozen", 1, "pretrain"),
        Cell("interleaving", "mmc4-coyo", 1, "pretrain"),
    ]
    assert together.trained[cells[0]] == together.trained[cells[1]] == "pretrain-unfrozen-s1"
    assert together.trained[Cell("control", "reference", 1, "pretrain")] == "pretrain-mmc4-s1"


def test_a_finding_adds_only_its_own_tasks_to_those_of_another():
    first = build_grid(load_plan(["freezing"], "miniature", 3))
    both = build_grid(load_plan(["freezing", "blending"], "miniature", 3))
    own, joint = (
        Counter(digest([node.component, grid.configs[node.name]]) for node in grid.nodes)
        for grid in (first, both)
    )
    assert own < joint


def test_seeds_change_trainings_and_not_data_or_tower(tiny: str):
    grid = build_grid(load_plan(["freezing"], tiny, 2))
    for stage in ("language-model", "align", "pretrain-frozen", "sft-frozen"):
        first, second = (grid.configs[f"{stage}-s{seed}"] for seed in (0, 1))
        assert first["train"]["seed"] == 0
        assert second["train"]["seed"] == 1
        assert merge(first, {"train": {"seed": 1}}).keys() == second.keys()
    assert grid.configs["align-s1"]["model"]["seed"] == 1
    assert grid.configs["align-s1"]["model"]["projector"] == "mlp_downsample"  # not lost beside it
    assert grid.configs["language-model-s1"]["miniature"]["seed"] == 1
    assert [node for node in grid.configs if node.startswith(("prepare", "vision"))] == [
        "prepare",
        "vision-tower",
        "prepare-no-series",
        "prepare-one-attribute",
        "prepare-no-text",
    ]


def test_seeds_may_begin_anywhere(tiny: str):
    plan = load_plan(["freezing"], tiny, 2, first_seed=5)
    grid = build_grid(plan)
    assert grid.configs["sft-frozen-s6"]["train"]["seed"] == 6
    assert {cell.seed for cell in grid.measured} == {5, 6}


def test_variants_of_the_data_reach_pretrain_alone(tiny: str):
    plan = load_plan(["interleaving"], tiny, 2)
    assert inputs(plan, "pretrain-mmc4-pairs-s0") == {"data": "prepare-pairs", "base": "align-s0"}
    assert inputs(plan, "evaluate-pretrain-mmc4-pairs-s0")["data"] == "prepare"
    assert inputs(plan, "align-s0")["data"] == "prepare"


def test_an_arm_may_leave_pretraining_out(write: WriteYaml, tiny: str):
    finding = changed(["arms", "bare"], {"title": "no pre-training", "skip": ["pretrain"]})
    finding["table"] = [{"title": "q", "measure": "visual", "after": "sft"}]
    plan = load_plan([write("f.yaml", finding)], tiny, 2)
    assert inputs(plan, "sft-bare-s0") == {"data": "prepare", "base": "align-s0"}
    assert "pretrain-bare-s0" not in build_grid(plan).configs


def test_overrides_change_the_size_and_mixtures_are_replaced_whole(tiny: str):
    plan = load_plan(["interleaving"], tiny, 2, ["pretrain.train.steps=7"])
    grid = build_grid(plan)
    assert grid.configs["pretrain-mmc4-s0"]["train"]["steps"] == 7
    assert grid.configs["pretrain-mmc4-s0"]["mixture"] == {"mmc4": 1.0}


def test_a_size_may_change_an_arm(write: WriteYaml):
    size = {**TINY, "arms": {"blending": {"visual": {"sft": {"pack_tokens": 700}}}}}
    grid = build_grid(load_plan(["blending"], write("s.yaml", size), 2))
    assert grid.configs["sft-visual-s0"]["pack_tokens"] == 700
    assert grid.configs["sft-visual-s0"]["mixture"] == {"llava": 1.0}
    assert "pack_tokens" not in grid.configs["sft-blend-s0"]


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        ("freezin", "there is no finding 'freezin'; did you mean 'freezing'"),
        ("./none.yaml", "there is no such file of a finding"),
        (
            changed(["effects", 0, "minus"], "frosen"),
            "there is no arm 'frosen'; arms: free, frozen",
        ),
        (
            changed(["effects", 0, "measure"], "five-shot"),
            "no measure 'five-shot'; known: four-shot",
        ),
        (changed(["effects", 0, "measure"], "visual"), "'visual' is not measured"),
        (changed(["effects", 0, "smallest"], {"paper": 0.1}), "says nothing for the size 'tiny'"),
        (changed(["effects", 0, "smallest"], {"default": 0}), r"smallest\.default: 0 is not valid"),
        (changed(["arms", "frozen", "data"], "pears"), "has no variant 'pears'"),
        (
            changed(["arms", "frozen", "pretran"], {}),
            "pretran: unknown key; did you mean 'pretrain'",
        ),
        (changed(["paper", "columns"], ["a", "b"]), "'frozen' has not one value per column"),
        (changed(["plots", 0, "curve"], "shot"), "there is no curve 'shot'"),
    ],
)
def test_mistakes_in_a_finding_are_told(write: WriteYaml, tiny: str, finding: Any, message: str):
    name = finding if isinstance(finding, str) else write("f.yaml", finding)
    with pytest.raises(UserError, match=message):
        load_plan([name], tiny, 2)


@pytest.mark.parametrize(
    ("size", "seeds", "overrides", "message"),
    [
        ("miniatur", 3, [], "there is no size 'miniatur'; did you mean 'miniature'"),
        ("miniature", 1, [], "--seeds 1: an interval over seeds needs two or more"),
        ("miniature", 3, ["pretrian.train.steps=3"], "--set: pretrian: unknown key; did you mean"),
    ],
)
def test_mistakes_in_the_size_are_told(size: str, seeds: int, overrides: list[str], message: str):
    with pytest.raises(UserError, match=message):
        load_plan(["freezing"], size, seeds, overrides)


def test_a_value_that_a_stage_does_not_take_is_told_with_its_task():
    plan = load_plan(["freezing"], "miniature", 2, ["sft.train.stepz=3"])
    with pytest.raises(UserError, match=r"size miniature: sft_.*train\.stepz: unknown key"):
        recipe_of(plan, build_grid(plan))
