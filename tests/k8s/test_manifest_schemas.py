"""Every object of every overlay is valid, strictly, for the oldest and the newest Kubernetes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1ClusterTrainingRuntime as TrainingRuntime
from kubernetes_validate import utils

from tests.k8s.rendered import OVERLAYS, custom_schemas, objects, one
from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.render import key_of

OLDEST = "1.31"
NEWEST = kubernetes_validate.latest_version()
CUSTOM = custom_schemas()
TRAINING = ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime")

Validate = Callable[[Manifest, str], None]


@pytest.fixture(scope="module")
def validate() -> Validate:
    """Checks an object strictly; the schemas' files are read once."""
    patch = pytest.MonkeyPatch()
    patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))

    def check(manifest: Manifest, version: str) -> None:
        which = (manifest["apiVersion"], manifest["kind"])
        if which == TRAINING:
            training_runtime(manifest, version)
        elif which in CUSTOM:
            jsonschema.Draft202012Validator(CUSTOM[which]).validate(manifest)
            metadata(manifest, version)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)

    return check


def metadata(manifest: Manifest, version: str) -> None:
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
    kubernetes_validate.validate(plain, version, strict=True)


def training_runtime(manifest: Manifest, version: str) -> None:
    """Trainer's models drop what they don't know: what comes back must be what went in."""
    model = TrainingRuntime.from_dict(manifest)
    assert model is not None
    assert json.loads(model.to_json()) == manifest
    metadata(manifest, version)
    for job in manifest["spec"]["template"]["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", **job["template"]}
        kubernetes_validate.validate(whole, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid(overlay: str, version: str, validate: Validate) -> None:
    for manifest in objects(overlay):
        try:
            validate(manifest, version)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{key_of(manifest)}: {error.json_path}: {error.message}")


def test_the_newest_schema_is_newer_than_the_oldest() -> None:
    assert [int(part) for part in NEWEST.split(".")[:2]] > [1, 31]


MISTAKES: list[tuple[str, str, list[str | int], Any]] = [
    ("Deployment", "vila-dashboard", ["spec", "replica"], 2),
    ("Deployment", "vila-dashboard", ["spec", "replicas"], "2"),
    ("NetworkPolicy", "vila-to-kfp", ["spec", "egres"], []),
    ("ClusterTrainingRuntime", "vila-torch", ["spec", "mlPolicies"], {}),
    ("ClusterTrainingRuntime", "vila-torch", ["spec", "mlPolicy", "torch", "numProc"], 1),
    ("ClusterQueue", "vila", ["spec", "cohort"], "all"),
    ("LocalQueue", "vila", ["spec", "clusterqueue"], "vila"),
    ("ServiceMonitor", "vila-dashboard", ["spec", "endpoints", 0, "intervall"], "30s"),
    ("ExternalSecret", "vila-dashboard-tokens", ["spec", "target", "names"], "x"),
    ("ExternalSecret", "vila-dashboard-tokens", ["metadata", "label"], {"a": "b"}),
]


@pytest.mark.parametrize(("kind", "name", "path", "value"), MISTAKES)
def test_a_mistake_is_found(
    kind: str, name: str, path: list[str | int], value: Any, validate: Validate
) -> None:
    manifest = one(objects("gpu-cluster"), kind, name)
    *parents, last = path
    parent: Any = manifest
    for step in parents:
        parent = parent[step]
    parent[last] = value
    for version in (OLDEST, NEWEST):
        with pytest.raises((jsonschema.ValidationError, AssertionError, ValueError)):
            validate(manifest, version)


def test_custom_objects_have_a_namespace_exactly_where_their_kind_has_one() -> None:
    scopes = {which: schema["x-scope"] for which, schema in CUSTOM.items()}
    scopes[TRAINING] = "Cluster"
    for overlay in OVERLAYS:
        for manifest in objects(overlay):
            scope = scopes.get((manifest["apiVersion"], manifest["kind"]))
            if scope:
                assert ("namespace" in manifest["metadata"]) == (scope == "Namespaced")
