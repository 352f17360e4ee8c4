"""The objects of a cluster: its overlay of `k8s/`, with what its config says written in.

So images, store and namespace stand in one place, `configs/clusters/NAME.yaml`. Everything else is
the overlay's, and `kubectl kustomize` shows the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from vila_ops.cluster.config import ClusterConfig, StorePlace
from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.render import containers_of, key_of, overlay_folder, pod_specs, render
from vila_ops.cluster.resources import CA_FOLDER

SERVICES = "vila"
"""The namespace of the dashboard and of what else serves runs; the runs' own is the config's."""

STORE_MAP = "vila-store"
CREDENTIALS = "vila-store-credentials"
CACHE = "vila-cache"

USES_STORE = "vila.dev/uses-store"
"""Label of pods in the services' namespace that reach the store."""

_ROLE_IMAGE = re.compile(r"(?:.*/)?vila-platform/(data|train|eval|ops)(?:[:@].*)?")
_NAME = "kubernetes.io/metadata.name"


def manifests(config: ClusterConfig) -> list[Manifest]:
    """Return every object that a cluster gets, in an order in which they can be applied.

    Raises UserError for an unknown overlay, or one that can't be rendered.
    """
    found = [item for item in render(overlay_folder(config.overlay)) if _wanted(item, config)]
    for manifest in found:
        _images(manifest, config)
        _namespace(manifest, config)
        _store_port(manifest, config.store)
        if (manifest["kind"], manifest["metadata"]["name"]) == ("ConfigMap", STORE_MAP):
            manifest["data"] = store_environment(config.store)
    found = _credentials(found, config.store.secret)
    if config.store.ca_secret is not None:
        for manifest in found:
            _trust(manifest, config.store.ca_secret)
    return list({key_of(manifest): manifest for manifest in found}.values())


def store_environment(store: StorePlace) -> dict[str, str]:
    """Return the environment variables that say where the store is, without credentials."""
    return {
        "VILA_STORE": store.uri,
        "VILA_S3_ENDPOINT": store.endpoint,
        "AWS_REGION": store.region,
    }


def _wanted(manifest: Manifest, config: ClusterConfig) -> bool:
    """Return whether the config has a use for an object: queues and the cache may be left out."""
    if manifest["apiVersion"].startswith("kueue.x-k8s.io/"):
        return config.queue is not None
    cache = manifest["kind"] in ("PersistentVolumeClaim", "Job")
    return not (cache and manifest["metadata"]["name"] == CACHE and config.cache_claim != CACHE)


def _images(manifest: Manifest, config: ClusterConfig) -> None:
    for spec in pod_specs(manifest):
        ours = False
        for container in containers_of(spec):
            role = _ROLE_IMAGE.fullmatch(container["image"])
            if role:
                ours = True
                container["image"] = config.images[role[1]]
                container["imagePullPolicy"] = config.image_pull_policy
        if ours and config.image_pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]


def _namespace(manifest: Manifest, config: ClusterConfig) -> None:
    """Move what belongs to runs to the config's namespace, and let policies name KFP's."""
    metadata = manifest["metadata"]
    if metadata.get("namespace", SERVICES) != SERVICES:
        metadata["namespace"] = config.namespace
        for subject in manifest.get("subjects", []):
            if subject["kind"] == "ServiceAccount":
                subject["namespace"] = config.namespace
    if manifest["kind"] == "ClusterQueue":
        manifest["spec"]["namespaceSelector"] = {"matchLabels": {_NAME: config.namespace}}
    if (manifest["kind"], metadata["name"]) == ("NetworkPolicy", "vila-to-kfp"):
        for rule in manifest["spec"]["egress"]:
            for peer in rule["to"]:
                peer["namespaceSelector"] = {"matchLabels": {_NAME: config.kfp.namespace}}


def _store_port(manifest: Manifest, store: StorePlace) -> None:
    """Let the policies that open the way to the store open its port."""
    name = (manifest["kind"], manifest["metadata"]["name"])
    if name not in (("NetworkPolicy", "to-store"), ("NetworkPolicy", "vila-to-store")):
        return
    place = urlsplit(store.endpoint)
    port = {"port": place.port or (443 if place.scheme == "https" else 80)}
    for rule in manifest["spec"]["egress"]:
        if port not in rule["ports"]:
            rule["ports"].append(port)


def _credentials(found: list[Manifest], name: str | None) -> list[Manifest]:
    """Return the objects with the Secret of the store's credentials called `name`, or without."""
    if name == CREDENTIALS:
        return found
    kept = []
    for manifest in found:
        if _provides_credentials(manifest):
            if name is None:
                continue
            manifest["metadata"]["name"] = name
            if "target" in manifest.get("spec", {}):
                manifest["spec"]["target"]["name"] = name
        for container in containers_of(manifest):
            variables = container.get("env", [])
            if name is None:
                container["env"] = [item for item in variables if not _reads_credentials(item)]
            for variable in filter(_reads_credentials, variables):
                variable["valueFrom"]["secretKeyRef"]["name"] = name
        kept.append(manifest)
    return kept


def _trust(manifest: Manifest, secret: str) -> None:
    """Let what uses the store trust the authority in the Secret's ca.crt."""
    template = manifest.get("spec", {}).get("template", {})
    if USES_STORE not in template.get("metadata", {}).get("labels", {}):
        return
    for spec in pod_specs(manifest):
        spec["volumes"].append({"name": "store-ca", "secret": {"secretName": secret}})
        for container in containers_of(spec):
            place = {"name": "AWS_CA_BUNDLE", "value": f"{CA_FOLDER}/ca.crt"}
            container["env"].append(place)
            mount = {"name": "store-ca", "mountPath": CA_FOLDER, "readOnly": True}
            container["volumeMounts"].append(mount)


def _provides_credentials(manifest: Manifest) -> bool:
    kinds = ("Secret", "ExternalSecret")
    return manifest["kind"] in kinds and manifest["metadata"]["name"] == CREDENTIALS


def _reads_credentials(variable: Mapping[str, Any]) -> bool:
    source = variable.get("valueFrom", {}).get("secretKeyRef", {})
    return source.get("name") == CREDENTIALS
