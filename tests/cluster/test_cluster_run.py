"""Runs of the toy pipeline on a cluster, executed for real from the submitted documents."""

import json
from typing import Any

import pytest

from tests.cluster.engine import Engine
from tests.cluster.places import Laptop, Site

pytestmark = pytest.mark.slow  # every task is a process that imports kfp


def show(laptop: Laptop, run: str = "last") -> dict[str, Any]:
    return json.loads(laptop("show", run, "--json"))


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {t["name"]: "cached" if t["cached"] else t["status"] for t in run["tasks"]}


def test_a_run_is_submitted_executed_recorded_and_seen_from_another_machine(
    site: Site, engine: Engine
):
    laptop = site.laptop()
    printed = laptop("run", site.recipe, "--runner", "cluster", "--cluster", site.cluster)
    assert "succeeded" in printed
    assert "58.0 %" in printed
    assert "https://kfp.example/#/runs/details/" in laptop.err
    seen = show(laptop)
    assert statuses(seen) == dict.fromkeys(("source", "grow", "grow-twin", "judge"), "succeeded")
    assert seen["runner"] == "cluster"
    assert seen["cluster"]["kfp"]["url"].endswith(site.server.kfp.runs()[0]["run_id"])
    (run,) = site.server.kfp.runs()
    assert run["display_name"] == seen["run_id"]
    assert f"vila show {seen['run_id']}" in run["description"]
    other = site.laptop("other", kubeconfig=site.folder / "nowhere")
    assert show(other)["tasks"] == seen["tasks"]
    assert "counting to 4" in other("logs", "last", "source")
    assert other("logs", "last", "-f").count("judge     | ") > 0
