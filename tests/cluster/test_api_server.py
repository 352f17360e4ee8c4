"""The test API server itself, asked through the real clients."""

import threading
import time
from pathlib import Path
from typing import Any

import kfp
import pytest
import yaml
from kfp import compiler, dsl
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from tests.api_server import ApiServer

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "step", "namespace": "vila", "labels": {"vila.dev/run": "r1"}},
    "spec": {"containers": [{"name": "main", "image": "vila-platform/data:latest"}]},
}


@pytest.fixture
def api(api_server: ApiServer, tmp_path: Path) -> client.ApiClient:
    path = api_server.kubeconfig(tmp_path / "config")
    return config.new_client_from_config(str(path))


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


def test_objects_are_kept_selected_and_deleted(core: client.CoreV1Api) -> None:
    made = core.create_namespaced_pod("vila", POD)
    assert made.metadata.uid
    found = core.list_namespaced_pod("vila", label_selector="vila.dev/run=r1").items
    assert [pod.metadata.name for pod in found] == ["step"]
    assert core.list_namespaced_pod("vila", label_selector="vila.dev/run in (r2)").items == []
    assert core.list_namespaced_pod("vila", field_selector="status.phase=Running").items == []
    core.delete_namespaced_pod("step", "vila")
    with pytest.raises(ApiException) as told:
        core.read_namespaced_pod("step", "vila")
    assert told.value.status == 404


def test_what_a_real_server_refuses_is_refused(core: client.CoreV1Api) -> None:
    with pytest.raises(ApiException, match="containerz"):
        core.create_namespaced_pod("vila", {**POD, "spec": {**POD["spec"], "containerz": []}})
    with pytest.raises(ApiException) as told:
        core.create_namespaced_pod("nowhere", {**POD, "metadata": {"name": "step"}})
    assert told.value.status == 404
    core.create_namespaced_pod("vila", POD)
    with pytest.raises(ApiException) as told:
        core.create_namespaced_pod("vila", POD)
    assert (told.value.status, told.value.reason) == (409, "Conflict")


def test_a_stale_replacement_conflicts(core: client.CoreV1Api) -> None:
    old = core.create_namespaced_pod("vila", POD)
    core.patch_namespaced_pod("step", "vila", {"metadata": {"labels": {"more": "x"}}})
    assert core.read_namespaced_pod("step", "vila").metadata.labels["vila.dev/run"] == "r1"
    with pytest.raises(ApiException) as told:
        core.replace_namespaced_pod("step", "vila", old)
    assert told.value.status == 409


def test_a_watch_sees_changes_and_an_old_one_is_gone(
    core: client.CoreV1Api, api_server: ApiServer
) -> None:
    version = core.list_namespaced_pod("vila").metadata.resource_version
    api_server.kube.add(POD)
    api_server.kube.set_status("v1", "Pod", "vila", "step", {"phase": "Running"})
    seen = []
    for event in watch.Watch().stream(
        core.list_namespaced_pod, "vila", resource_version=version, timeout_seconds=5
    ):
        seen.append((event["type"], event["object"].status.phase))
        if len(seen) == 2:
            break
    assert seen == [("ADDED", "Pending"), ("MODIFIED", "Running")]
    api_server.kube.compact()
    with pytest.raises(ApiException) as told:
        list(
            watch.Watch().stream(
                core.list_namespaced_pod, "vila", resource_version="1", timeout_seconds=1
            )
        )
    assert told.value.status == 410


def test_logs_are_followed_to_the_end_of_the_pod(
    core: client.CoreV1Api, api_server: ApiServer
) -> None:
    api_server.kube.add(POD)
    api_server.kube.write_log("vila", "step", "one", "two")
    assert core.read_namespaced_pod_log("step", "vila", tail_lines=1) == "two\n"

    def go_on() -> None:
        time.sleep(0.1)
        api_server.kube.write_log("vila", "step", "three")
        api_server.kube.set_status("v1", "Pod", "vila", "step", {"phase": "Succeeded"})

    writer = threading.Thread(target=go_on)
    writer.start()
    told = core.read_namespaced_pod_log("step", "vila", follow=True, _preload_content=False)
    assert b"".join(told.stream()) == b"one\ntwo\nthree\n"
    writer.join()


def test_apply_is_idempotent_and_fields_have_owners(
    api: client.ApiClient, api_server: ApiServer
) -> None:
    def apply(manager: str, value: str, **query: str) -> Any:
        return api.call_api(
            "/api/v1/namespaces/vila/configmaps/vila-store",
            "PATCH",
            query_params=[("fieldManager", manager), *query.items()],
            header_params={"Content-Type": "application/apply-patch+yaml"},
            body={
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "vila-store", "namespace": "vila"},
                "data": {"VILA_STORE": value},
            },
            auth_settings=["BearerToken"],
            response_type="object",
            _return_http_data_only=True,
        )

    first, again = apply("vila", "s3://a"), apply("vila", "s3://a")
    assert first["metadata"]["resourceVersion"] == again["metadata"]["resourceVersion"]
    with pytest.raises(ApiException, match="conflict with"):
        apply("somebody", "s3://b")
    assert apply("somebody", "s3://b", force="true")["data"] == {"VILA_STORE": "s3://b"}


def test_what_an_owner_leaves_is_collected(api: client.ApiClient, api_server: ApiServer) -> None:
    jobs = client.CustomObjectsApi(api)
    where = ("trainer.kubeflow.org", "v1alpha1", "vila", "trainjobs")
    with pytest.raises(ApiException) as told:
        jobs.list_namespaced_custom_object(*where)
    assert told.value.status == 404
    api_server.kube.install("trainer.kubeflow.org")
    owner = api_server.kube.add(POD)
    reference = {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": owner["metadata"]["uid"]}
    jobs.create_namespaced_custom_object(
        *where,
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"generateName": "vila-", "ownerReferences": [reference]},
            "spec": {"runtimeRef": {"name": "vila-torch"}},
        },
    )
    assert len(api_server.kube.find("TrainJob")) == 1
    api_server.kube.remove("v1", "Pod", "vila", "step")
    assert api_server.kube.find("TrainJob") == []


def test_rights_tokens_and_faults(
    core: client.CoreV1Api, api_server: ApiServer, tmp_path: Path
) -> None:
    api_server.deny("list", "pods")
    with pytest.raises(ApiException, match="cannot list resource"):
        core.list_namespaced_pod("vila")
    api_server.fail("GET", "/namespaces/vila$", status=429)
    with pytest.raises(ApiException) as told:
        core.read_namespace("vila")
    assert told.value.status == 429
    assert core.read_namespace("vila").metadata.name == "vila"
    bad = api_server.kubeconfig(tmp_path / "bad", token="expired")
    with pytest.raises(ApiException) as told:
        client.CoreV1Api(config.new_client_from_config(str(bad))).read_namespace("vila")
    assert told.value.status == 401


@dsl.component(base_image="vila-platform/data:latest", install_kfp_package=False)
def _hello(text: str) -> str:
    return text


@dsl.pipeline(name="hello")
def _pipeline(text: str):
    _hello(text=text)


@pytest.mark.filterwarnings("ignore:This client only works with:FutureWarning")
@pytest.mark.parametrize("proxied", [False, True])
def test_kfp_by_its_own_client(api_server: ApiServer, tmp_path: Path, proxied: bool) -> None:
    package = tmp_path / "hello.yaml"
    compiler.Compiler().compile(_pipeline, str(package))
    path = "/api/v1/namespaces/kubeflow/services/ml-pipeline:8888/proxy" if proxied else ""
    known = kfp.Client(host=api_server.url + path, existing_token="good-token", verify_ssl=False)
    experiment = known.create_experiment("vila")
    assert known.get_experiment(experiment_name="vila").experiment_id == experiment.experiment_id
    pipeline = known.upload_pipeline(str(package), pipeline_name="hello")
    version = known.upload_pipeline_version(
        str(package), pipeline_version_name="v2", pipeline_id=pipeline.pipeline_id
    )
    run = known.run_pipeline(
        experiment.experiment_id,
        "r1",
        params={"text": "x"},
        pipeline_id=pipeline.pipeline_id,
        version_id=version.pipeline_version_id,
    )
    assert known.get_run(run.run_id).state == "PENDING"
    assert known.list_runs(experiment_id=experiment.experiment_id).runs[0].display_name == "r1"
    assert api_server.kfp.documents(run.run_id)[0] == yaml.safe_load(package.read_text())
    known.terminate_run(run.run_id)
    assert known.get_run(run.run_id).state == "CANCELED"
    with pytest.raises(Exception, match="unknown"):
        known.create_run_from_pipeline_package(
            str(package), arguments={"texxt": "x"}, experiment_name="vila"
        )
    scheduled = known.create_recurring_run(
        experiment.experiment_id,
        "nightly",
        cron_expression="0 0 2 * * *",
        params={"text": "x"},
        pipeline_id=pipeline.pipeline_id,
        version_id=version.pipeline_version_id,
    )
    assert known.list_recurring_runs().recurring_runs[0].display_name == "nightly"
    known.disable_recurring_run(scheduled.recurring_run_id)
    assert known.get_recurring_run(scheduled.recurring_run_id).status == "DISABLED"
