"""A pipeline that is put together from nodes runs, is cached and resumed as any other."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.assembled import Node, compile_nodes
from vila_core.errors import UserError
from vila_core.store import open_store
from vila_ops.assemble import assemble
from vila_ops.driver.graph import load_graph
from vila_ops.driver.run import drive
from vila_ops.runs import create_run, load_view

DATA = {"data": ("source", "data")}
NODES = (
    Node("source", "toy_source"),
    Node("grow-s0", "toy_grow", DATA),
    Node("grow-s1", "toy_grow", DATA),
)
CONFIGS = {"source": {"count": 4}, "grow-s0": {"steps": 3}, "grow-s1": {"steps": 2}}


def toy_recipe(configs: dict[str, dict[str, int]] = CONFIGS, nodes: tuple[Node, ...] = NODES):
    off = {"wandb": "disabled"}
    return assemble("toys", nodes, configs, where="test", tracking=off)


def test_nodes_become_tasks_with_their_own_configs_and_edges(tmp_path: Path):
    compile_nodes("toys", NODES, tmp_path / "a.yaml")
    compile_nodes("toys", NODES, tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    tasks = load_graph(tmp_path / "a.yaml").tasks
    assert {name: task.stage for name, task in tasks.items()} == {
        "source": "toy_source",
        "grow-s0": "toy_grow",
        "grow-s1": "toy_grow",
    }
    assert tasks["grow-s1"].inputs == DATA
    assert tasks["grow-s1"].config_key == NODES[2].config_key == "grow_s1"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((Node("Source", "toy_source"),), "no name of a node"),
        ((Node("context", "toy_source"),), "no name of a node"),
        ((NODES[0], NODES[0]), "two nodes are named 'source'"),
        ((NODES[1], NODES[0]), "its input 'source' is no earlier node"),
    ],
)
def test_nodes_that_are_no_graph_are_refused(tmp_path: Path, nodes: tuple[Node], message: str):
    with pytest.raises(ValueError, match=message):
        compile_nodes("toys", nodes, tmp_path / "a.yaml")
    assert not list(tmp_path.iterdir())


def test_a_config_that_a_stage_does_not_take_is_told_with_its_task():
    with pytest.raises(UserError, match=r"test: grow_s1\.step: unknown key; did you mean 'steps'"):
        toy_recipe({**CONFIGS, "grow-s1": {"step": 2}})


def test_the_compiled_pipeline_moves_with_the_store(tmp_path: Path):
    store = open_store(str(tmp_path / "here"))
    run_id = create_run(store, toy_recipe(), runner="inline", name=None, argv=[])
    assert json.loads(store.read(f"runs/{run_id}/run.json"))["config"]["pipeline"] == "assembled"
    shutil.move(tmp_path / "here", tmp_path / "there")  # as if on another machine
    moved = open_store(str(tmp_path / "there"))
    assert drive(moved, run_id) == "succeeded"
    assert {task.name: task.status for task in load_view(moved, run_id).tasks} == {
        "source": "succeeded",
        "grow-s0": "succeeded",
        "grow-s1": "succeeded",
    }


def test_another_run_with_one_node_more_runs_only_that_one(tmp_path: Path):
    store = open_store(str(tmp_path / "store"))
    drive(store, create_run(store, toy_recipe(), runner="inline", name=None, argv=[]))
    nodes = (*NODES, Node("grow-s2", "toy_grow", DATA))
    more = toy_recipe({**CONFIGS, "grow-s2": {"steps": 5}}, nodes)
    run_id = create_run(store, more, runner="inline", name=None, argv=[])
    assert drive(store, run_id) == "succeeded"
    assert {task.name: task.status for task in load_view(store, run_id).tasks} == {
        "source": "cached",
        "grow-s0": "cached",
        "grow-s1": "cached",
        "grow-s2": "succeeded",
    }
