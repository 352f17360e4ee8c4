"""Which keys and which address a bootstrap uses: the environment's, else the cluster's Secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from components.kube.client import in_pod
from components.kube.errors import Absent, NotAllowed
from vila_core.errors import UserError, VilaError
from vila_ops.cluster import s3
from vila_ops.cluster.check_objects import secret_values
from vila_ops.cluster.check_store import is_inside
from vila_ops.cluster.config import ClusterConfig

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

ROOT = ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
STORE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ROOT_SECRET = "vila-minio-root"
SERVICES = "vila"
"""The namespace where MinIO is, if it is ours."""


def from_environment() -> tuple[s3.Place, s3.Keys, s3.Keys | None]:
    """Return place, keys and root keys as the bootstrap job has them. Raises UserError."""
    uri, endpoint = os.environ.get("VILA_STORE", ""), os.environ.get("VILA_S3_ENDPOINT", "")
    if not uri.startswith("s3://") or not endpoint:
        raise UserError(
            "vila cluster bootstrap: without a cluster's name VILA_STORE=s3://bucket/prefix and "
            "VILA_S3_ENDPOINT must be set; fix: vila cluster bootstrap NAME."
        )
    place = s3.Place.of(uri, endpoint, os.environ.get("AWS_REGION") or "us-east-1")
    return place, _environment(STORE) or s3.own_identity(place), _environment(ROOT)


def of_cluster(
    config: ClusterConfig, api: ApiClient | None
) -> tuple[s3.Place, s3.Keys, s3.Keys | None]:
    """Return place, keys and root keys of a cluster. `api` is None where it can't be asked.

    Raises UserError where no keys are found, or the address is none from here.
    """
    inside = in_pod()
    endpoint = config.store.endpoint
    if not inside:
        endpoint = config.store.external_endpoint or endpoint
        if is_inside(endpoint):
            raise UserError(
                f"store.endpoint: {endpoint} can't be reached from outside the cluster; fix: "
                "kubectl -n vila port-forward service/minio 9000:9000, and "
                "store.external_endpoint: http://127.0.0.1:9000 in the cluster's config."
            )
    keys = _environment(STORE)
    if keys is None and api is not None and config.store.secret is not None:
        keys = _secret(api, config.namespace, config.store.secret, STORE)
    root = _environment(ROOT)
    if root is None and api is not None:
        root = _secret(api, SERVICES, ROOT_SECRET, ROOT)
    ca = None
    if config.store.ca_secret is not None and api is not None:
        try:
            ca = secret_values(api, config.namespace, config.store.ca_secret).get("ca.crt")
        except VilaError:
            ca = None
    place = s3.Place.of(config.store.uri, endpoint, config.store.region, ca)
    return place, keys or _own(config, place), root


def _own(config: ClusterConfig, place: s3.Place) -> s3.Keys:
    try:
        return s3.own_identity(place)
    except UserError:
        raise UserError(
            f"no keys of the store: neither {' and '.join(STORE)} are set, nor is there a Secret "
            f"{config.store.secret} in {config.namespace} that you may read; "
            "fix: export both, or make the Secret (vila cluster check says how)."
        ) from None


def _environment(names: tuple[str, str]) -> s3.Keys | None:
    access, secret = (os.environ.get(name, "").strip() for name in names)
    if not access or not secret:
        return None
    token = os.environ.get("AWS_SESSION_TOKEN") if names == STORE else None
    return s3.Keys(access, secret, "the environment", token)


def _secret(api: ApiClient, namespace: str, name: str, keys: tuple[str, str]) -> s3.Keys | None:
    try:
        found = secret_values(api, namespace, name)
    except (Absent, NotAllowed):
        return None
    access, secret = (found.get(key, "").strip() for key in keys)
    return s3.Keys(access, secret, f"the Secret {name}") if access and secret else None
