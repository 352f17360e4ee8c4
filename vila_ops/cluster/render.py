"""Renders the kustomizations of `k8s/` without kubectl: exactly the features that they use.

What it knows, it does as `kubectl kustomize` does (a test compares them); any other field of a
kustomization is refused, so that nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vila_core.config import read_yaml
from vila_core.errors import UserError
from vila_ops.cluster.patch import Manifest, apply_operations, merge

FILE = "kustomization.yaml"

CLUSTER_SCOPED = frozenset(
    {
        *("Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "StorageClass"),
        *("PersistentVolume", "CustomResourceDefinition", "ClusterTrainingRuntime"),
        *("ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass", "ClusterSecretStore"),
    }
)

# What others refer to comes before what refers to it; workloads come last.
_ORDER = (
    *("Namespace", "CustomResourceDefinition", "PriorityClass", "ResourceQuota", "LimitRange"),
    *("ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"),
    *("ConfigMap", "Secret", "ExternalSecret", "NetworkPolicy", "PersistentVolumeClaim"),
    *("WorkloadPriorityClass", "ResourceFlavor", "ClusterQueue", "LocalQueue"),
    *("ClusterTrainingRuntime", "Service", "PodDisruptionBudget", "ServiceMonitor", "Ingress"),
)

Key = tuple[str, str, str, str]


def overlay_folder(name: str) -> Path:
    """Return the folder of an overlay that comes with the package, by name, or by its own path.

    Raises UserError naming those that exist.
    """
    if "/" in name and (Path(name) / FILE).is_file():
        return Path(name)
    folder = Path(__file__).resolve().parents[2] / "k8s" / "overlays"
    if (folder / name / FILE).is_file():
        return folder / name
    known = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{FILE}")))
    raise UserError(f"overlay: {name}: there is no such folder in {folder}; known: {known}.")


def render(overlay: Path) -> list[Manifest]:
    """Return every object of a kustomization, in an order in which they can be applied.

    Raises UserError for what is missing, doubled, or not known here.
    """
    manifests = list(_accumulate(overlay, {}).values())
    places = {kind: place for place, kind in enumerate(_ORDER)}
    return sorted(manifests, key=lambda item: (places.get(item["kind"], len(places)), key_of(item)))


def key_of(manifest: Manifest) -> Key:
    """Return what tells an object from others: apiVersion, kind, namespace, name."""
    metadata = manifest["metadata"]
    return (
        manifest["apiVersion"],
        manifest["kind"],
        metadata.get("namespace", ""),
        metadata["name"],
    )


def to_yaml(manifests: list[Manifest]) -> str:
    """Return the objects as one YAML stream, as kubectl reads it."""
    return yaml.safe_dump_all(manifests, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class _Kustomization:
    folder: Path
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return str(self.folder / FILE)


def _accumulate(folder: Path, found: dict[Key, Manifest]) -> dict[Key, Manifest]:
    """Add a kustomization's objects to `found`; a Component's patches reach those already there."""
    folder = folder.resolve()
    values = read_yaml(folder / FILE)
    it = _Kustomization(folder, values)
    unknown = sorted(values.keys() - _KNOWN)
    if unknown:
        raise UserError(f"{it.where}: {unknown[0]}: not rendered here; known: {_listed(_KNOWN)}.")
    mine = found if values.get("kind") == "Component" else {}
    for name in values.get("resources", []):
        for manifest in _resource(folder / name):
            _put(mine, manifest, it)
    for name in values.get("components", []):
        _accumulate(folder / name, mine)
    for generator in values.get("configMapGenerator", []):
        _put(mine, _config_map(generator, it), it)
    manifests = list(mine.values())
    for name, step in _STEPS.items():
        if values.get(name):
            step(manifests, values[name], it)
    mine.clear()
    for manifest in manifests:
        _put(mine, manifest, it)
    return mine


def _put(found: dict[Key, Manifest], manifest: Manifest, it: _Kustomization) -> None:
    key = key_of(manifest)
    if key in found:
        raise UserError(f"{it.where}: {key[1]} {key[3]}: is there twice.")
    found[key] = manifest


def _resource(path: Path) -> list[Manifest]:
    if path.is_dir():
        return list(_accumulate(path, {}).values())
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    return [document for document in documents if document]


def _config_map(generator: Mapping[str, Any], it: _Kustomization) -> Manifest:
    options = generator.get("options", {})
    if not options.get("disableNameSuffixHash"):
        raise UserError(
            f"{it.where}: configMapGenerator: {generator.get('name')}: needs "
            "options.disableNameSuffixHash: true; names with a hash are not rendered here."
        )
    data = dict(text.split("=", 1) for text in generator.get("literals", []))
    for text in generator.get("files", []):
        key, _, name = text.rpartition("=")
        data[key or Path(name).name] = (it.folder / name).read_text(encoding="utf-8")
    metadata: dict[str, Any] = {"name": generator["name"]}
    metadata |= {k: generator[k] for k in ("namespace",) if k in generator}
    metadata |= {k: dict(options[k]) for k in ("labels", "annotations") if k in options}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _patches(
    manifests: list[Manifest], patches: list[Mapping[str, Any]], it: _Kustomization
) -> None:
    for number, entry in enumerate(patches):
        where = f"{it.where}: patches[{number}]"
        text = entry.get("patch") or (it.folder / entry["path"]).read_text(encoding="utf-8")
        patch = yaml.safe_load(text)
        target = entry.get("target") or _target_of(patch)
        chosen = [index for index, item in enumerate(manifests) if _matches(item, target)]
        if not chosen:
            raise UserError(f"{where}: no object is like {dict(target)}.")
        for index in chosen:
            if isinstance(patch, list):
                apply_operations(manifests[index], patch, where)
            else:
                named = {"name": manifests[index]["metadata"]["name"]}
                patch = patch | {"metadata": patch.get("metadata", {}) | named}
                manifests[index] = merge(manifests[index], patch, where)


def _target_of(patch: Any) -> Mapping[str, str]:
    metadata = patch["metadata"]
    target = {"kind": patch["kind"], "name": metadata["name"]}
    return target | ({"namespace": metadata["namespace"]} if "namespace" in metadata else {})


def _matches(manifest: Manifest, target: Mapping[str, str]) -> bool:
    metadata = manifest["metadata"]
    has = {
        "kind": manifest["kind"],
        "name": metadata["name"],
        "namespace": metadata.get("namespace", ""),
    }
    return all(has.get(name) == value for name, value in target.items())


def _namespace(manifests: list[Manifest], namespace: str, it: _Kustomization) -> None:
    accounts = {item["metadata"]["name"] for item in manifests if item["kind"] == "ServiceAccount"}
    for manifest in manifests:
        if manifest["kind"] not in CLUSTER_SCOPED:
            manifest["metadata"]["namespace"] = namespace
        for subject in manifest.get("subjects", []):
            if subject["kind"] == "ServiceAccount" and subject["name"] in accounts:
                subject["namespace"] = namespace


def _labels(manifests: list[Manifest], labels: list[Mapping[str, Any]], it: _Kustomization) -> None:
    for entry in labels:
        if set(entry) != {"pairs"}:
            raise UserError(f"{it.where}: labels: only pairs are rendered here.")
        for manifest in manifests:
            manifest["metadata"].setdefault("labels", {}).update(entry["pairs"])


def _images(manifests: list[Manifest], images: list[Mapping[str, str]], it: _Kustomization) -> None:
    for manifest in manifests:
        for container in containers_of(manifest):
            for image in images:
                container["image"] = _image(container["image"], image)


def _image(text: str, image: Mapping[str, str]) -> str:
    name, at, digest = text.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, ""
    if head != image["name"]:
        return text
    head = image.get("newName", head)
    if "digest" in image:
        return f"{head}@{image['digest']}"
    if "newTag" in image:
        return f"{head}:{image['newTag']}"
    return head + (f"{at}{digest}" if digest else f":{tag}" if tag else "")


def pod_specs(value: Any) -> list[dict[str, Any]]:
    """Return every pod spec in an object, wherever its pod template stands."""
    found: list[dict[str, Any]] = []
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            return [value]
        for inner in value.values():
            found += pod_specs(inner)
    elif isinstance(value, list):
        for inner in value:
            found += pod_specs(inner)
    return found


def containers_of(value: Any) -> list[dict[str, Any]]:
    """Return every container and init container in an object."""
    kinds = ("initContainers", "containers")
    return [item for spec in pod_specs(value) for kind in kinds for item in spec.get(kind, [])]


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


_STEPS: Mapping[str, Callable[[list[Manifest], Any, _Kustomization], None]] = {
    "patches": _patches,
    "namespace": _namespace,
    "labels": _labels,
    "images": _images,
}
_KNOWN = frozenset({"apiVersion", "kind", "resources", "components", "configMapGenerator", *_STEPS})
