"""Whether what serves runs is there and at work: the dashboard, the store's set-up, a MinIO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.kube import objects
from components.kube.errors import KindMissing
from vila_ops.cluster.apply import missing_secrets, path_of, progress, title
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.manifests import SERVICES, manifests
from vila_ops.cluster.references import secrets_by_hand
from vila_ops.doctor import Check

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_PASSING = ("Job",)
"""Kinds that are gone a while after they have ended well."""


def services(api: ApiClient, config: ClusterConfig, apply: str) -> Iterator[Check]:
    """Yield what of the overlay's objects is missing in their namespace, or does not run."""
    every = manifests(config)
    ours = [each for each in every if each["metadata"].get("namespace") == SERVICES]
    lacking, unknown = [], []
    for manifest in ours:
        try:
            found = objects.find(api, path_of(api, manifest))
        except KindMissing:
            unknown.append(manifest)
            continue
        if found is None and manifest["kind"] not in _PASSING:
            lacking.append(manifest)
    if lacking:
        names = [title(each) for each in lacking]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield Check("services", "error", f"missing: {', '.join(names[:3])}{more}", apply)
    if unknown:
        kinds = sorted({each["kind"] for each in unknown})
        detail = f"the cluster does not know {', '.join(kinds)}: not made"
        fix = "install what brings the kind, or leave its component out of the overlay"
        yield Check("services", "warning", detail, fix)
    needed = {place: sorted(keys) for place, keys in secrets_by_hand(every).items()}
    for each in missing_secrets(
        api, {place: keys for place, keys in needed.items() if place[0] == SERVICES}
    ):
        yield Check("services", "error", f"{each.name}: {each.detail}", each.fix)
    running = [each for each in ours if each["kind"] in ("Deployment", "StatefulSet")]
    for manifest in [each for each in running if each not in lacking]:
        now = progress(api, manifest)
        told = f"{now.name}: {now.state}"
        if now.done:
            yield Check("services", "ok", told)
        else:
            where, name = SERVICES, manifest["metadata"]["name"]
            fix = now.fix or f"kubectl -n {where} describe pods -l app.kubernetes.io/name={name}"
            problem = f": {now.problem}" if now.problem else ""
            yield Check("services", "error", f"{told}{problem}", fix)
