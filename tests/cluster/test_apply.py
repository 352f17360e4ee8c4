"""`vila cluster apply` on the test API server: idempotent, conflicts told, workloads waited for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.api_server import ApiServer
from tests.cluster.complete import config_for, written
from vila_ops.cli.cluster import app
from vila_ops.cluster.apply import apply, missing_secrets, wait
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.cluster.generate import generated
from vila_ops.cluster.manifests import manifests
from vila_ops.cluster.outcome import Done


@pytest.fixture
def config(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterConfig:
    return config_for(api_server, tmp_path, monkeypatch)


def config_map(value: str, name: str = "vila-store", namespace: str = "vila") -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"KEY": value}}


def job(image: str) -> dict[str, Any]:
    template = {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "b", "image": image}]},
    }
    meta = {"name": "vila-bootstrap", "namespace": "vila"}
    spec = {"template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def brought(config: ClusterConfig, *objects: dict[str, Any], **more: Any) -> list[Done]:
    return list(apply(kubernetes_api(config), objects, **more))


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["kind", "gpu-cluster"])
def test_every_overlay_is_taken_twice(
    api_server: ApiServer, config: ClusterConfig, overlay: str
) -> None:
    api_server.kube.install()
    kept = config.model_copy(update={"overlay": overlay})
    first = brought(kept, *generated(manifests(kept), lambda *_: None))
    assert {each.outcome for each in first} <= {"created", "changed"}

    def existing(namespace: str, name: str) -> Any:
        return _as_data(api_server.kube.get("v1", "Secret", namespace, name))

    again = brought(kept, *generated(manifests(kept), existing))
    assert [each for each in again if each.outcome != "unchanged"] == []
    assert len(again) == len(first)


def _as_data(found: dict[str, Any] | None) -> dict[str, str] | None:
    """Return a Secret's data as the API would: what was given as text, too."""
    import base64

    if found is None:
        return None
    texts = found.get("stringData") or {}
    return {key: base64.b64encode(value.encode()).decode() for key, value in texts.items()}


def test_what_changed_is_named(config: ClusterConfig) -> None:
    [first] = brought(config, config_map("a"))
    assert (first.name, first.outcome) == ("ConfigMap vila/vila-store", "created")
    [second] = brought(config, config_map("b"))
    assert (second.outcome, second.detail) == ("changed", "data.KEY")


def test_a_dry_run_keeps_nothing(api_server: ApiServer, config: ClusterConfig) -> None:
    brought(config, config_map("a"))
    new = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new"}}
    inside = config_map("x", namespace="new")
    found = brought(config, config_map("b"), new, inside, dry_run=True)
    assert [each.outcome for each in found] == ["changed", "created", "created"]
    kept = api_server.kube.get("v1", "ConfigMap", "vila", "vila-store")
    assert kept is not None
    assert kept["data"] == {"KEY": "a"}
    assert api_server.kube.get("v1", "Namespace", "", "new") is None
    absent = config_map("x", namespace="absent")
    [refused] = brought(config, absent, dry_run=True)
    assert refused.outcome == "refused"
    assert 'namespaces "absent" not found' in refused.detail


def test_fields_that_others_manage_are_left_unless_forced(
    api_server: ApiServer, config: ClusterConfig
) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"{api_server.url}/api/v1/namespaces/vila/configmaps/vila-store?fieldManager=somebody",
        data=json.dumps(config_map("theirs")).encode(),
        headers={
            "Authorization": "Bearer good-token",
            "Content-Type": "application/apply-patch+yaml",
        },
        method="PATCH",
    )
    urllib.request.urlopen(request).close()
    other = config_map("x", name="other")
    refused, fine = brought(config, config_map("ours"), other)
    assert refused.outcome == "refused"
    assert 'conflict with "somebody"' in refused.detail
    assert "--force-conflicts" in refused.fix
    assert fine.outcome == "created"
    [forced] = brought(config, config_map("ours"), force=True)
    assert forced.outcome == "changed"


def test_a_kind_without_its_crd_is_skipped_and_comes_last(config: ClusterConfig) -> None:
    queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": "vila", "namespace": "vila"},
    }
    found = brought(config, queue, config_map("a"))
    assert [each.outcome for each in found] == ["created", "skipped"]
    assert "Kueue is not installed" in found[1].detail
    assert found[1].fix.startswith("kubectl apply --server-side -f https://")


def test_an_invalid_object_and_a_missing_right_are_told(
    api_server: ApiServer, config: ClusterConfig
) -> None:
    broken = {**config_map("a", name="broken"), "dataa": {}}
    api_server.deny("patch", "secrets")
    meta = {"name": "s", "namespace": "vila"}
    denied = {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
    found = brought(config, broken, denied, config_map("b"))
    assert [each.outcome for each in found] == ["refused", "refused", "created"]
    assert "dataa" in found[0].detail
    assert "can-i patch secrets -n vila" in found[1].fix


def test_a_job_that_changed_is_made_anew(api_server: ApiServer, config: ClusterConfig) -> None:
    brought(config, job("ops:1"))
    before = api_server.kube.get("batch/v1", "Job", "vila", "vila-bootstrap")
    # What a real API server says of a change in a Job's template.
    api_server.fail("PATCH", "/jobs/vila-bootstrap", status=422, message="field is immutable")
    [found] = brought(config, job("ops:2"))
    assert found.outcome == "replaced"
    after = api_server.kube.get("batch/v1", "Job", "vila", "vila-bootstrap")
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "ops:2"


def test_secrets_that_must_be_made_by_hand(api_server: ApiServer, config: ClusterConfig) -> None:
    meta = {"name": "half", "namespace": "vila"}
    api_server.kube.add(
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"a": "eA=="}}
    )
    needed = {("vila", "half"): ["a", "b"], ("vila", "vila-dashboard-tokens"): ["tokens"]}
    half, absent = missing_secrets(kubernetes_api(config), needed)
    assert (half.outcome, half.detail) == ("missing", "lacks b")
    assert absent.fix == (
        "kubectl -n vila create secret generic vila-dashboard-tokens --from-file=tokens=FILE"
    )


def deployment() -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "vila-dashboard"}
    meta = {"name": "vila-dashboard", "namespace": "vila"}
    pod = {"containers": [{"name": "dashboard", "image": "ops:1"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def test_workloads_are_waited_for(api_server: ApiServer, config: ClusterConfig) -> None:
    wanted = [deployment(), job("ops:1")]
    brought(config, *wanted)
    kube = api_server.kube

    def steps() -> Iterator[Any]:
        yield lambda: kube.set_status(
            "apps/v1", "Deployment", "vila", "vila-dashboard", {"readyReplicas": 1}
        )
        status = {"readyReplicas": 2, "updatedReplicas": 2, "observedGeneration": 5}
        yield lambda: kube.set_status("apps/v1", "Deployment", "vila", "vila-dashboard", status)
        complete = {"conditions": [{"type": "Complete", "status": "True"}]}
        yield lambda: kube.set_status("batch/v1", "Job", "vila", "vila-bootstrap", complete)

    timer = [threading.Timer(0.3 * n, step) for n, step in enumerate(steps(), start=1)]
    for each in timer:
        each.start()
    told = list(wait(kubernetes_api(config), wanted, limit_s=30, poll_s=0.05))
    for each in timer:
        each.join()
    states = [each.state for each in told if each.name.startswith("Deployment")]
    assert states == ["0 of 2 ready", "1 of 2 ready", "2 of 2 ready"]
    assert [each.name for each in told if each.done] == [
        "Deployment vila/vila-dashboard",
        "Job vila/vila-bootstrap",
    ]


def test_what_holds_a_workload_up_is_told(api_server: ApiServer, config: ClusterConfig) -> None:
    brought(config, deployment())
    message = 'secret "vila-dashboard-tokens" not found'
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
    api_server.kube.add(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "vila-dashboard-x",
                "namespace": "vila",
                "labels": {"app.kubernetes.io/name": "vila-dashboard"},
            },
            "spec": {"containers": [{"name": "dashboard", "image": "ops:1"}]},
            "status": {"containerStatuses": [{"name": "dashboard", "state": waiting}]},
        }
    )
    told = list(wait(kubernetes_api(config), [deployment()], limit_s=0.2, poll_s=0.05))
    assert told[0].problem == message
    assert "create secret generic vila-dashboard-tokens" in told[0].fix
    assert told[-1].failed
    assert "not ready after 0 s" in told[-1].state


def test_a_job_that_failed_is_told_at_once(api_server: ApiServer, config: ClusterConfig) -> None:
    brought(config, job("ops:1"))
    reached = {"type": "Failed", "status": "True", "message": "Job has reached the backoff limit"}
    api_server.kube.set_status(
        "batch/v1", "Job", "vila", "vila-bootstrap", {"conditions": [reached]}
    )
    [told] = wait(kubernetes_api(config), [job("ops:1")], limit_s=30)
    assert told.failed
    assert "kubectl -n vila logs job/vila-bootstrap" in told.fix


@pytest.mark.slow
def test_the_command(api_server: ApiServer, config: ClusterConfig, tmp_path: Path) -> None:
    api_server.kube.install()
    with written(config, tmp_path / "mine.yaml") as name:
        shown = CliRunner().invoke(app, ["render", name])
        assert shown.exit_code == 0
        rendered = list(yaml.safe_load_all(shown.output))
        dry = CliRunner().invoke(app, ["apply", name, "--dry-run"])
        assert f"{len(rendered) - 1} created, 1 changed" in dry.output
        assert "dry run: nothing was kept" in dry.output
        assert api_server.kube.find("Deployment") == []
        done = CliRunner().invoke(app, ["apply", name, "--no-wait", "--json"])
        told = json.loads(done.output)
        assert len([each for each in told if each["outcome"] in ("created", "changed")]) == len(
            rendered
        )
        late = CliRunner().invoke(app, ["apply", name, "--timeout", "0"])
        assert late.exit_code == 1
        assert "failed    Deployment vila/vila-dashboard: 0 of 2 ready" in late.output


@pytest.mark.slow
def test_a_part_that_is_not_installed_is_told_and_no_failure(
    api_server: ApiServer, config: ClusterConfig, tmp_path: Path
) -> None:
    kind = config.model_copy(update={"overlay": "kind"})
    with written(kind, tmp_path / "mine.yaml") as name:
        done = CliRunner().invoke(app, ["apply", name, "--no-wait"])
    assert "skipped   ClusterTrainingRuntime vila-torch" in done.output
    assert done.exit_code == 0


@pytest.mark.slow
def test_generated_secrets_are_kept(
    api_server: ApiServer, config: ClusterConfig, tmp_path: Path
) -> None:
    api_server.kube.install()
    kind = config.model_copy(update={"overlay": "kind"})
    with written(kind, tmp_path / "mine.yaml") as name:
        shown = CliRunner().invoke(app, ["render", name])
        assert "stringData" not in shown.output
        CliRunner().invoke(app, ["apply", name, "--no-wait"])
    found = api_server.kube.find("Secret")
    values = {
        each["metadata"]["namespace"]: each["stringData"]
        for each in found
        if each["metadata"]["name"] == "vila-store-credentials"
    }
    assert values["vila"] == values["kubeflow"]
    assert len(values["vila"]["AWS_SECRET_ACCESS_KEY"]) == 40
