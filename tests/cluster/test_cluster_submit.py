"""Submitting, watching and ending runs, and what can go wrong there; nothing is executed."""

import json
from typing import Any

import pytest
import yaml

from components.runtime import record
from components.runtime.context import Context
from components.runtime.schedules import begin_triggered
from tests.cluster.places import Site
from vila_core.errors import UserError, VilaError
from vila_core.store import Store
from vila_ops.cli import on_cluster
from vila_ops.cluster import follow, submit
from vila_ops.cluster.kfp import Kfp, NotAccepted, Unanswered
from vila_ops.recipes import Recipe, load_recipe
from vila_ops.runs import load_view

RUNS = r"/apis/v2beta1/runs(\?|$)"


@pytest.fixture
def store(site: Site, monkeypatch: pytest.MonkeyPatch) -> Store:
    return site.store(monkeypatch)


@pytest.fixture
def recipe(site: Site, toys: None) -> Recipe:
    return load_recipe(str(site.recipe))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vila_ops.cluster.kfp._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("vila_ops.cluster.follow.POLL_SECONDS", 0.01)
    monkeypatch.setattr(
        "components.kube.client.Patience.wait", lambda self, attempt, asked_for=None: 0.01
    )


def begin(site: Site, recipe: Recipe, name: str | None = None) -> str:
    return submit.start(submit.open_cluster(str(site.cluster)), recipe, name=name, argv=[])


def finish(store: Store, run_id: str, task: str, status: str = "succeeded") -> None:
    started = {"stage": "toy_source", "key": "k", "key_parts": None}
    writer = record.AttemptWriter(store, run_id, task, started)
    error = {"kind": "UserError", "message": "toy.jsonl:3: is not JSON"}
    writer.finish({"status": status, "error": error if status == "failed" else None})


def test_a_run_and_its_links(site: Site, store: Store, recipe: Recipe):
    run_id = begin(site, recipe)
    (run,) = site.server.kfp.runs()
    about = submit.read_cluster(store, run_id)
    assert about is not None
    assert about["kfp"]["run_id"] == run["run_id"]
    assert about["kfp"]["url"] == f"https://kfp.example/#/runs/details/{run['run_id']}"
    assert run["display_name"] == run_id
    assert run["description"] == f"vila show {run_id} --store {store.uri}"
    assert run["service_account"] == "vila-step"
    parameters = run["runtime_config"]["parameters"]
    context = Context.parse(parameters["context"])
    assert (context.store, context.run_id, context.driver_pid) == (store.uri, run_id, None)
    assert json.loads(parameters["source"])["count"] == 4
    secrets = ("tester-secret", "good-token")
    assert not any(secret in json.dumps([run, about]) for secret in secrets)
    assert follow.standing(store, run_id) == follow.Standing("running", "no task has begun yet")


def test_equal_pipelines_are_one_version_and_runs_of_one_experiment(
    site: Site, store: Store, recipe: Recipe
):
    for name in ("one", "two"):
        begin(site, recipe, name)
    kept = site.server.kfp.objects
    assert [len(kept[kind]) for kind in ("pipelines", "versions", "experiments", "runs")] == [
        1,
        1,
        1,
        2,
    ]
    site.write_cluster(defaults={"cpu": "2", "memory": "2Gi"})
    begin(site, recipe, "three")
    assert len(kept["versions"]) == 2, "another place is another version"


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": True},
        {"cut": True, "after": True},
        {"status": 503},
        {"status": 500},
        {"status": 502, "after": True},
        {"status": 429, "headers": {"Retry-After": "1"}},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "what",
    [
        "runs",
        *(
            pytest.param(what, marks=pytest.mark.slow)
            for what in ("pipelines", "pipelines/upload_version", "experiments")
        ),
    ],
)
def test_a_lost_answer_starts_nothing_twice(
    site: Site, store: Store, recipe: Recipe, what: str, fault: dict[str, Any]
):
    site.server.fail("POST", rf"/apis/v2beta1/{what}(\?|$)", **fault)
    run_id = begin(site, recipe)
    kept = site.server.kfp.objects
    assert {kind: len(kept[kind]) for kind in ("pipelines", "versions", "experiments", "runs")} == {
        "pipelines": 1,
        "versions": 1,
        "experiments": 1,
        "runs": 1,
    }
    about = submit.read_cluster(store, run_id)
    assert about is not None
    assert about["kfp"]["run_id"] == site.server.kfp.runs()[0]["run_id"]


def test_a_submission_that_was_cut_off_is_taken_up_where_it_was(
    site: Site, store: Store, recipe: Recipe
):
    site.server.fail("POST", RUNS, cut=True, after=True, times=9)
    site.server.fail("GET", RUNS)  # the first look goes well
    site.server.fail("GET", RUNS, status=503, times=40)
    with pytest.raises(Unanswered, match="try again later"):
        begin(site, recipe)
    site.server.faults.clear()
    (run_id,) = store.children("runs")
    about = submit.read_cluster(store, run_id)
    assert about is not None
    assert about["kfp"]["run_id"] is None
    (run,) = site.server.kfp.runs()
    assert follow.standing(store, run_id).status == "running", "found by its name"
    about = submit.read_cluster(store, run_id)
    assert about is not None
    assert about["kfp"]["run_id"] == run["run_id"]


def test_a_submission_that_never_arrived_is_told_and_can_be_resumed(
    site: Site, store: Store, recipe: Recipe
):
    site.server.fail("POST", RUNS, status=503, times=99)
    with pytest.raises(Unanswered, match=r"go on with: vila resume toy-"):
        begin(site, recipe)
    site.server.faults.clear()
    (run_id,) = store.children("runs")
    known = follow.standing(store, run_id)
    assert known.status == "interrupted"
    assert f"vila resume {run_id}" in known.note
    about = submit.read_cluster(store, run_id)
    assert about is not None
    submit.submit(submit.open_again(about), run_id)
    assert [run["display_name"] for run in site.server.kfp.runs()] == [run_id]
    assert follow.standing(store, run_id).status == "running"


def test_a_slow_answer_is_waited_for_and_a_silent_kfp_is_told(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    site.server.fail("POST", RUNS, delay=0.5)
    run_id = begin(site, recipe)
    site.server.fail("GET", r"/runs/", delay=1.0, times=9)
    patience = follow.Patience(read_s=0.1, tries=2)
    known = follow.standing(store, run_id, patience)
    assert known.status == "running"
    assert known.note.startswith("by the record alone; last heard of ")
    assert "does not answer" in known.note


def test_the_end_is_recorded_once_by_whoever_looks_first(site: Site, store: Store, recipe: Recipe):
    run_id = begin(site, recipe)
    finish(store, run_id, "source", "failed")
    kfp_id = site.server.kfp.runs()[0]["run_id"]
    site.server.kfp.set_state(kfp_id, "FAILED", "step source failed")
    view, note = follow.current_view(store, run_id)
    assert (view.status, note) == ("failed", "")
    assert view.error == "task 'source': toy.jsonl:3: is not JSON"
    asked = len(site.server.requests)
    del site.server.kfp.objects["runs"][kfp_id]
    assert follow.current_view(store, run_id)[0].error == view.error
    assert len(site.server.requests) == asked, "who comes later need not ask"


def test_without_kfp_the_record_tells(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    run_id = begin(site, recipe)
    finish(store, run_id, "source")
    monkeypatch.setenv("KUBECONFIG", str(site.folder / "gone"))
    known = follow.standing(store, run_id)
    assert known.status == "running"
    assert "there is no kubeconfig" in known.note
    for task in ("grow", "grow-twin", "judge"):
        finish(store, run_id, task)
    assert follow.standing(store, run_id).status == "succeeded"


def test_a_run_that_was_deleted_in_kfp_is_stopped(site: Site, store: Store, recipe: Recipe):
    run_id = begin(site, recipe)
    site.server.kfp.objects["runs"].clear()
    assert follow.current_view(store, run_id)[0].status == "stopped"
    assert "deleted in Kubeflow Pipelines" in follow.current_view(store, run_id)[0].error


def test_stop_removes_trainjobs_and_pods_and_says_how_attempts_ended(
    site: Site, store: Store, recipe: Recipe
):
    run_id = begin(site, recipe)
    kfp_id = site.server.kfp.runs()[0]["run_id"]
    started = {"stage": "toy_source", "key": "k", "key_parts": None}
    record.AttemptWriter(store, run_id, "source", started)
    site.server.kube.install("trainer.kubeflow.org")
    for name, run in (("mine", run_id), ("other", "other-run")):
        site.server.kube.add(
            {
                "apiVersion": "trainer.kubeflow.org/v1alpha1",
                "kind": "TrainJob",
                "metadata": {
                    "name": name,
                    "namespace": "kubeflow",
                    "labels": {"vila.dev/run": run},
                },
                "spec": {"runtimeRef": {"name": "vila-torch"}},
            }
        )
    for name, phase in (("at-work", "Running"), ("done", "Succeeded")):
        meta = {"name": name, "namespace": "kubeflow", "labels": {"pipeline/runid": kfp_id}}
        spec = {"containers": [{"name": "main", "image": "x"}]}
        status = {"phase": phase}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}
        site.server.kube.add(pod)
    follow.stop(store, run_id)
    names = [job["metadata"]["name"] for job in site.server.kube.find("TrainJob")]
    assert names == ["other"]
    assert [pod["metadata"]["name"] for pod in site.server.kube.find("Pod")] == ["done"]
    loaded = record.RunRecord.load(store, run_id)
    assert loaded.status == "stopped"
    (attempt,) = loaded.tasks["source"]
    assert attempt.finished is not None
    assert attempt.finished["status"] == "stopped"
    with pytest.raises(UserError, match="is not running, it is stopped"):
        follow.stop(store, run_id)


def test_stop_tells_when_kfp_does_not_end_the_run(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    run_id = begin(site, recipe)
    site.server.kfp.cancel_at_once = False
    monkeypatch.setattr("vila_ops.cluster.follow.STOP_SECONDS", 0.1)
    with pytest.raises(VilaError, match=r"did not end within .* kubectl get pods -l pipeline"):
        follow.stop(store, run_id)
    assert follow.standing(store, run_id).status == "running"


def test_expired_credentials_are_told(site: Site, store: Store, recipe: Recipe):
    run_id = begin(site, recipe)
    site.server.tokens.clear()
    with pytest.raises(NotAccepted, match="expired") as told:
        submit.open_cluster(str(site.cluster))
    assert told.value.exit_code == 2
    assert "expired" in follow.standing(store, run_id).note


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"context": "prot"}, "did you mean 'prod'"),
        ({"namespace": "vila"}, "it runs every task in its own namespace, kubeflow"),
        ({"kfp": {"url": "http://127.0.0.1:9", "token_env": "NO_TOKEN"}}, "NO_TOKEN"),
        ({"kueue": "x"}, "kueue: unknown key; did you mean 'queue'"),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_recorded(
    site: Site, store: Store, recipe: Recipe, more: dict[str, Any], told: str
):
    site.write_cluster(**more)
    with pytest.raises(UserError, match=told):
        begin(site, recipe)
    assert store.children("runs") == []
    assert site.server.kfp.runs() == []


@pytest.mark.parametrize(
    ("name", "told"),
    [("x" * 46, "at most 45 characters"), ("a b", "use letters")],
)
def test_a_name_that_is_no_label_is_refused(
    site: Site, store: Store, recipe: Recipe, name: str, told: str
):
    with pytest.raises(UserError, match=told):
        begin(site, recipe, name)


def test_another_store_is_refused(site: Site, store: Store):
    with pytest.raises(UserError, match="the cluster's tasks use s3://"):
        submit.open_cluster(str(site.cluster), "s3://elsewhere/x")
    with pytest.raises(UserError, match=r"there is no cluster 'kin.*'; did you mean 'kind'"):
        submit.open_cluster("kint")


def test_kfp_at_an_address_of_its_own(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KFP_TOKEN", "good-token")
    monkeypatch.setenv("KUBECONFIG", "nowhere")
    site.write_cluster(kfp={"url": site.server.url, "token_env": "KFP_TOKEN"})
    run_id = begin(site, recipe)
    about = submit.read_cluster(store, run_id)
    assert about is not None
    assert about["kfp"]["url"].startswith(f"{site.server.url}/#/runs/details/")
    assert "good-token" not in json.dumps(about)


def test_a_schedule_and_its_triggers(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    cluster = submit.open_cluster(str(site.cluster))
    schedule_id, made = submit.schedule(
        cluster, recipe, cron="0 3 * * *", name="nightly", argv=[], experiment="nights"
    )
    (kept,) = site.server.kfp.objects["recurringruns"].values()
    assert kept["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert made.url == f"https://kfp.example/#/recurringrun/details/{made.kfp_id}"
    assert store.children("runs") == [], "nothing has been triggered yet"
    context = Context.parse(kept["runtime_config"]["parameters"]["context"])
    ids = ("1b4e28ba-2fa1-11d2-883f-0016d3cca427", "2c4e28ba-2fa1-11d2-883f-0016d3cca427")
    for kfp_run in (*ids, ids[0]):
        monkeypatch.setenv("VILA_KFP_RUN", kfp_run)
        assert begin_triggered(context).run_id == f"nightly-kfp-{kfp_run[:8]}-2fa1"
    assert sorted(store.children("runs")) == [
        "nightly-kfp-1b4e28ba-2fa1",
        "nightly-kfp-2c4e28ba-2fa1",
    ]
    about = submit.read_cluster(store, "nightly-kfp-1b4e28ba-2fa1")
    assert about is not None
    assert about["kfp"]["run_id"] == ids[0]
    assert about["kfp"]["url"].endswith(ids[0])
    assert [each["schedule"] for each in submit.schedules(store)] == [schedule_id]
    submit.end_schedule(store, schedule_id)
    assert site.server.kfp.objects["recurringruns"] == {}
    assert submit.schedules(store) == []
    with pytest.raises(UserError, match="there is no schedule 'x'"):
        submit.end_schedule(store, "x")


@pytest.mark.parametrize("cron", ["every day", "0 3 * *", "", "0 3 * * * * *", "$(x) 3 * * *"])
def test_a_cron_expression_that_is_none_is_refused(cron: str):
    with pytest.raises(UserError, match="is no cron expression"):
        submit.cron_of(cron)


def test_braces_of_argo_are_hidden_in_parameters(site: Site, recipe: Recipe):
    context = Context(store="s", run_id="r", recipe="{{workflow.name}}")
    text = submit._parameters(recipe, context)["context"]
    assert "{{" not in text
    assert Context.parse(text) == context


def test_another_pipeline_file_needs_nothing_of_the_laptop(
    site: Site, store: Store, recipe: Recipe
):
    run_id = begin(site, recipe)
    (version,) = site.server.kfp.objects["versions"].values()
    uploaded = version["pipeline_spec"]
    spec = yaml.safe_load(store.read(f"runs/{run_id}/pipeline.yaml"))
    assert uploaded["pipeline_spec"]["root"] == spec["root"]
    assert "platforms" in uploaded["platform_spec"]


def test_of_many_users_tasks_run_in_the_profile(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    site.write_cluster(namespace="team-a")
    monkeypatch.setattr(Kfp, "many_users", True)
    run_id = begin(site, recipe)
    (experiment,) = site.server.kfp.objects["experiments"].values()
    assert experiment["namespace"] == "team-a"
    assert follow.standing(store, run_id).status == "running"


def test_what_is_wrong_on_the_cluster_is_shown_on_its_task_and_kept(
    site: Site, store: Store, recipe: Recipe
):
    run_id = begin(site, recipe)
    kfp_id = site.server.kfp.runs()[0]["run_id"]
    waiting = {"reason": "ImagePullBackOff", "message": "registry.example/ops:1: not found"}
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "toy-grow",
            "namespace": "kubeflow",
            "labels": {"pipeline/runid": kfp_id, "vila.dev/task": "grow"},
        },
        "spec": {"containers": [{"name": "main", "image": "registry.example/ops:1"}]},
        "status": {
            "phase": "Pending",
            "containerStatuses": [
                {
                    "name": "main",
                    "image": "registry.example/ops:1",
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"waiting": waiting},
                }
            ],
        },
    }
    site.server.kube.add(pod)
    view, told = on_cluster.look(store, load_view(store, run_id))
    assert told is not None
    assert view.status == "running"
    (finding,) = told.findings
    assert finding.task == "grow"
    assert "registry.example/ops:1" in finding.message
    assert f"grow: {finding.kind}: " in told.text().plain
    site.server.kfp.set_state(kfp_id, "FAILED")
    assert follow.standing(store, run_id).status == "failed"
    site.server.kube.remove("v1", "Pod", "kubeflow", "toy-grow")
    view, told = on_cluster.look(store, load_view(store, run_id))
    assert told is not None
    assert list(told.findings) == [finding], "as it was when the run ended"
    assert view.error.startswith("task 'grow': ")


def test_of_a_task_on_several_nodes_the_run_may_make_trainjobs(site: Site, store: Store):
    sft = {"nodes": 2, "engine": "deepspeed", "packs_per_step": 2}
    set_ = [f"sft.train.{key}={value}" for key, value in sft.items()]
    run_id = begin(site, load_recipe("quickstart", [*set_, "tracking.wandb=off"]))
    (run,) = site.server.kfp.runs()
    assert run["service_account"] == "vila-train"
    context = Context.parse(run["runtime_config"]["parameters"]["context"])
    assert list(context.nodes) == ["sft"]
    assert context.nodes["sft"].service_account == "vila-step"
    (version,) = site.server.kfp.objects["versions"].values()
    executors = version["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    limits = {
        name: executors[name]["container"]["resources"]["resourceMemoryLimit"]
        for name in ("exec-sft", "exec-align")
    }
    assert limits == {"exec-sft": "4Gi", "exec-align": "2Gi"}
    assert follow.standing(store, run_id).status == "running"


def test_following_goes_on_while_kfp_is_silent(
    site: Site, store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vila_ops.cluster.follow.FOLLOW_SECONDS", 0.01)
    monkeypatch.setattr("components.runtime.record.QUIET_SECONDS", -1.0)
    run_id = begin(site, recipe)
    finish(store, run_id, "source", "failed")
    site.server.kfp.set_state(site.server.kfp.runs()[0]["run_id"], "SUCCEEDED")
    site.server.fail("GET", r"/runs/", status=503, times=5)
    assert record.RunRecord.load(store, run_id).status == "failed", "by the record alone"
    assert follow.follow(store, run_id) == "succeeded"
