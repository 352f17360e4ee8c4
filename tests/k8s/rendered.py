"""Every overlay of k8s/, rendered once, and the schemas of their custom resources."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import yaml

from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.render import overlay_folder, render

HERE = Path(__file__).parent
K8S = HERE.parents[1] / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))


@functools.cache
def _rendered(overlay: str) -> list[Manifest]:
    return render(overlay_folder(overlay))


def objects(overlay: str) -> list[Manifest]:
    return copy.deepcopy(_rendered(overlay))


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (
        item for item in manifests if (item["kind"], item["metadata"]["name"]) == (kind, name)
    )
    return found


def custom_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) to its JSON schema, and `x-scope` Cluster or Namespaced in it."""
    schemas = {}
    for path in sorted((HERE / "schemas").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        for kind, entry in document["kinds"].items():
            schemas[entry["apiVersion"], kind] = {
                "$defs": document.get("$defs", {}),
                "x-scope": entry["scope"],
                "type": "object",
                "additionalProperties": False,
                "required": ["apiVersion", "kind", "metadata", *entry.get("required", [])],
                "properties": {
                    "apiVersion": {"const": entry["apiVersion"]},
                    "kind": {"const": kind},
                    "metadata": {"type": "object"},
                    **entry["body"],
                },
            }
    return schemas
