"""Runs of the toy pipeline on a cluster, executed for real from the submitted documents."""

import json
import time
from collections.abc import Callable
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


def test_every_pod_is_given_what_the_documents_say_and_nothing_else(site: Site, engine: Engine):
    laptop = site.laptop()
    laptop.env["OF_THE_LAPTOP"] = "x"
    cluster = site.write_cluster(
        queue="vila", tasks={"grow": {"cpu": "3", "env": {"NCCL_DEBUG": "WARN"}}}
    )
    laptop("run", site.recipe, "--runner", "cluster", "--cluster", cluster, "-d")
    laptop("logs", "last", "-f")
    given = {
        pod["kubernetes"]["podMetadata"]["labels"]["vila.dev/task"]: pod for pod in engine.started
    }
    assert sorted(given) == ["grow", "grow-twin", "judge", "source"]
    env = given["grow"]["env"]
    assert env["NCCL_DEBUG"] == "WARN"
    assert env["AWS_SECRET_ACCESS_KEY"] == "tester-secret", "from the Secret"
    assert env["VILA_KFP_RUN"] == site.server.kfp.runs()[0]["run_id"]
    assert set(given["grow-twin"]["env"]) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "VILA_CACHE",
        "VILA_KFP_RUN",
        "VILA_NODE",
        "VILA_POD_NAME",
        "VILA_POD_UID",
        "VILA_S3_ENDPOINT",
    }
    assert given["grow"]["container"]["resources"]["resourceCpuLimit"] == "3"
    assert given["grow-twin"]["container"]["resources"]["resourceCpuLimit"] == "1"
    assert (
        given["judge"]["kubernetes"]["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "vila"
    )


def test_a_failed_run_is_told_and_resumed_from_another_machine(site: Site, engine: Engine):
    laptop = site.laptop()
    command = ("run", site.recipe, "--runner", "cluster", "--cluster", site.cluster)
    printed = laptop(*command, "--set", "grow_twin.broken=true", code=1)
    assert "ValueError: the twin broke" in printed
    assert "vila resume" in printed
    first = show(laptop)
    assert (first["status"], first["tasks"][0]["status"]) == ("failed", "succeeded")
    assert [each["state"] for each in site.server.kfp.runs()] == ["FAILED"]
    other = site.laptop("other")
    again = other("resume", "last", code=1)
    assert "the twin broke" in again
    second = show(other)
    assert second["run_id"] == first["run_id"]
    runs = site.server.kfp.runs()
    assert [run["display_name"] for run in runs] == [first["run_id"], f"{first['run_id']} #2"]
    attempts = {task["name"]: task["attempt"] for task in second["tasks"]}
    assert attempts["source"] == 1, "what the run has already stays as it is recorded"
    assert attempts["grow-twin"] == 2
    assert len(site.server.kfp.objects["versions"]) == 1


def test_a_task_that_fails_once_is_tried_again(site: Site, engine: Engine):
    laptop = site.laptop()
    cluster = site.write_cluster(tasks={"source": {"retries": 1}})
    command = ("run", site.recipe, "--runner", "cluster", "--cluster", cluster)
    laptop(*command, "--set", "source.fail=crash", code=1)
    seen = show(laptop)
    assert seen["tasks"][0]["attempt"] == 2
    assert "the toy broke" in seen["error"]


def test_stop_ends_the_tasks_and_resume_goes_on(site: Site, engine: Engine):
    laptop = site.laptop()
    command = ("run", site.recipe, "--runner", "cluster", "--cluster", site.cluster, "-d")
    run_id = laptop(*command, "--set", "grow.seconds_per_step=2", "--set", "grow.steps=20").strip()
    wait_for(lambda: _task(show(laptop), "grow")["status"] == "running")
    other = site.laptop("other")
    assert f"vila resume {run_id}" in other("stop", run_id)
    stopped = show(laptop)
    assert (stopped["status"], _task(stopped, "grow")["status"]) == ("stopped", "stopped")
    phases = [pod["status"]["phase"] for pod in site.server.kube.find("Pod")]
    assert "Running" not in phases
    assert json.loads(laptop("runs", "--json"))[0]["status"] == "stopped"
    other("resume", run_id, "-d")
    wait_for(lambda: _task(show(laptop), "grow")["attempt"] == 2)
    assert show(laptop)["status"] == "running"
    laptop("stop", run_id)


def test_a_schedule_starts_runs_that_record_themselves(site: Site, engine: Engine):
    laptop = site.laptop()
    command = ("run", site.recipe, "--runner", "cluster", "--cluster", site.cluster)
    schedule = laptop(*command, "--schedule", "0 3 * * *", "--name", "nightly").strip()
    (recurring,) = site.server.kfp.objects["recurringruns"].values()
    wanted = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account")
    trigger = {key: recurring[key] for key in wanted} | {"display_name": f"{schedule} 1"}
    with site.server.kfp.lock:
        site.server.kfp._create("runs", trigger)
    wait_for(lambda: site.server.kfp.runs()[0]["state"] == "SUCCEEDED")
    seen = show(laptop, "nightly")
    kfp_run = site.server.kfp.runs()[0]["run_id"]
    assert seen["run_id"] == f"nightly-kfp-{kfp_run[:8]}-{kfp_run[9:13]}"
    assert seen["status"] == "succeeded"
    assert set(statuses(seen).values()) == {"succeeded"}
    assert json.loads(laptop("schedules", "list", "--json"))[0]["cron"] == "0 0 3 * * *"
    laptop("schedules", "stop", schedule)
    assert laptop("schedules", "list") == ""


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _task(run: dict[str, Any], name: str) -> dict[str, Any]:
    return next(task for task in run["tasks"] if task["name"] == name)
