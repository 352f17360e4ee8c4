"""Whether the store can be reached from here with the cluster's keys, and what they may do."""

from __future__ import annotations

import io
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from components.kube.errors import Absent, ClusterError, NotAllowed
from vila_core.errors import UserError
from vila_ops.cluster import s3
from vila_ops.cluster.check_objects import secret_values
from vila_ops.cluster.config import ClusterConfig
from vila_ops.doctor import Check

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from minio import Minio

TITLE = "store"
MOST_SKEW_S = 900
"""What S3 allows a request's clock to differ."""
NOTED_SKEW_S = 30
_AGAIN = "vila cluster bootstrap sets the bucket and its policy"


def store(api: ApiClient | None, config: ClusterConfig, bootstrap: str) -> Iterator[Check]:
    """Yield whether the bucket is there and the keys may read, write, list, delete and create.

    What it writes for that it removes. Without `api` the keys come from the environment.
    """
    endpoint = config.store.external_endpoint or config.store.endpoint
    if config.store.external_endpoint is None and is_inside(endpoint):
        name, _, space = (urlsplit(endpoint).hostname or "").partition(".")
        yield Check(
            TITLE,
            "unknown",
            f"{endpoint} is an address inside the cluster: it can't be reached from here",
            f"kubectl -n {space.partition('.')[0] or 'vila'} port-forward service/{name} 9000:9000,"
            " and store.external_endpoint: http://127.0.0.1:9000 in the cluster's config",
        )
        return
    place = s3.Place.of(config.store.uri, endpoint, config.store.region, _ca(api, config))
    yield from probe(place, _keys(api, config, place), bootstrap)


def probe(place: s3.Place, keys: s3.Keys | Check, bootstrap: str) -> Iterator[Check]:
    """Yield a check for the server, the clock, the bucket, and each right.

    Without keys (a Check says why) only what needs none is looked at.
    """
    nobody = isinstance(keys, Check)
    with s3.connected(place, s3.Keys("nobody", "nobody") if nobody else keys) as (client, pool):
        try:
            answer = pool.request("GET", place.endpoint, retries=False)
        except s3.failures() as error:
            yield Check(TITLE, "error", f"{place.endpoint}: {s3.said(error)}", _reach(error))
            return
        source = "" if nobody else f", keys from {keys.source}"
        yield Check(TITLE, "ok", f"{place.endpoint} answers{source}")
        yield from clock("clock of store", answer.headers)
        if nobody:
            yield keys
            return
        yield from _bucket(client, place, keys, bootstrap)


def _bucket(client: Minio, place: s3.Place, keys: s3.Keys, bootstrap: str) -> Iterator[Check]:
    try:
        exists = s3.bucket_exists(client, place.bucket)
    except s3.failures() as error:
        yield Check(TITLE, "error", f"{place.bucket}: {s3.said(error)}", _refused(error, keys))
        return
    if not exists:
        yield Check("bucket", "error", f"there is no bucket {place.bucket}", bootstrap)
        return
    yield Check("bucket", "ok", place.bucket)
    yield from _rights(client, place, keys)
    yield from _versioning(client, place, bootstrap)


def clock(title: str, headers: Mapping[str, Any]) -> Iterator[Check]:
    """Yield how far this machine's clock is from a server's, by the Date of its answer."""
    try:
        there = parsedate_to_datetime(str(headers.get("Date"))).timestamp()
    except (TypeError, ValueError):
        yield Check(title, "unknown", "the answer has no date to compare with")
        return
    ahead = time.time() - there
    fix = "timedatectl set-ntp true, on whichever of the two is wrong (date -u)"
    told = f"this machine is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) > MOST_SKEW_S:
        yield Check(title, "error", f"{told}: S3 and TLS refuse more than 15 minutes", fix)
    elif abs(ahead) > NOTED_SKEW_S:
        yield Check(title, "warning", told, fix)
    else:
        yield Check(title, "ok", "the same as here, within 30 s")


def _rights(client: Minio, place: s3.Place, keys: s3.Keys) -> Iterator[Check]:
    """Try each right on an object of our own; say which are missing."""
    lead = f"{place.prefix}/" if place.prefix else ""
    name = f"{lead}cluster-check/{uuid.uuid4().hex}"
    body = b"probe"
    steps: list[tuple[str, Callable[[], object]]] = [
        ("write", lambda: client.put_object(place.bucket, name, io.BytesIO(body), len(body))),
        ("read", lambda: _read(client, place.bucket, name, body)),
        ("list", lambda: _list(client, place.bucket, name)),
        ("create only", lambda: _create_only(client, place.bucket, name, body)),
        ("write in parts", lambda: _parts(client, place.bucket, f"{name}.parts")),
        ("delete", lambda: client.remove_object(place.bucket, name)),
    ]
    good, errors = [], []
    for title, step in steps:
        try:
            step()
            good.append(title)
        except s3.failures() as error:
            errors.append((title, error))
            if title == "write":
                break  # the others need the object
    for title, error in errors:
        told = str(error) if isinstance(error, _Wrong) else s3.said(error)
        yield Check(f"right to {title}", "error", told, _refused(error, keys))
    if good:
        yield Check("rights", "ok", ", ".join(good))


class _Wrong(OSError):
    """A server that took a request and did not do what it means."""


def _read(client: Minio, bucket: str, name: str, body: bytes) -> None:
    response = client.get_object(bucket, name)
    try:
        if response.read() != body:
            raise _Wrong("gives back other bytes than were written")
    finally:
        response.close()
        response.release_conn()


def _list(client: Minio, bucket: str, name: str) -> None:
    found = [each.object_name for each in client.list_objects(bucket, prefix=name)]
    if name not in found:
        raise _Wrong("what was just written is not listed")


def _create_only(client: Minio, bucket: str, name: str, body: bytes) -> None:
    from minio.error import S3Error

    headers: dict[str, str | list[str] | tuple[str]] = {"If-None-Match": "*"}
    try:
        client._put_object(bucket, name, body, headers)  # minio's public call takes no conditions
    except S3Error as error:
        if error.code in ("PreconditionFailed", "ConditionalRequestConflict"):
            return
        raise
    raise _Wrong(
        "the server overwrites where 'If-None-Match: *' forbids it: two runs could take one name"
    )


def _parts(client: Minio, bucket: str, name: str) -> None:
    upload = client._create_multipart_upload(bucket, name, {})
    client._abort_multipart_upload(bucket, name, upload)


def _versioning(client: Minio, place: s3.Place, bootstrap: str) -> Iterator[Check]:
    try:
        status = client.get_bucket_versioning(place.bucket).status
    except s3.failures() as error:
        yield Check("versioning", "unknown", s3.said(error), "")
        return
    if status == "Enabled":
        yield Check("versioning", "ok", "on: what is overwritten or deleted can be brought back")
    else:
        yield Check("versioning", "warning", "off: a deleted run is gone", bootstrap)


def _keys(api: ApiClient | None, config: ClusterConfig, place: s3.Place) -> s3.Keys | Check:
    """Return the keys of the cluster's Secret, else those of the environment, else what to do."""
    name, where = config.store.secret, config.namespace
    reason = "the cluster uses the service account's own identity (STS)"
    if name is not None and api is not None:
        try:
            found = secret_values(api, where, name)
            access, secret = found.get("AWS_ACCESS_KEY_ID"), found.get("AWS_SECRET_ACCESS_KEY")
            if access and secret:
                return s3.Keys(access.strip(), secret.strip(), f"the Secret {name}")
            reason = f"the Secret {name} lacks keys"
        except Absent:
            reason = f"the Secret {name} is missing"
        except NotAllowed:
            reason = f"you may not read the Secret {name}"
    access, secret = (
        os.environ.get(key, "") for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    if access and secret:
        token = os.environ.get("AWS_SESSION_TOKEN")
        return s3.Keys(access, secret, "the environment", token)
    try:
        return s3.own_identity(place)
    except UserError:
        return Check(
            TITLE,
            "unknown",
            f"{reason}, and the environment has no keys: rights can't be tried",
            "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…",
        )


def _ca(api: ApiClient | None, config: ClusterConfig) -> str | None:
    if config.store.ca_secret is None or api is None:
        return None
    try:
        return secret_values(api, config.namespace, config.store.ca_secret).get("ca.crt")
    except ClusterError:
        return None  # told with the Secrets; the machine's own certificates may do


def is_inside(endpoint: str) -> bool:
    """Return whether an endpoint's name means something inside the cluster only."""
    host = urlsplit(endpoint).hostname or ""
    bare = "." not in host and ":" not in host and host != "localhost"
    return bare or host.endswith((".svc", ".cluster.local"))


def _reach(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "trust its CA: kubectl create secret generic … --from-file=ca.crt, store.ca_secret"
    return "store.endpoint or external_endpoint in the cluster's config, and that the server runs"


def _refused(error: Exception, keys: s3.Keys) -> str:
    """Return what to do about a refusal."""
    code = s3.code_of(error)
    if code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidTokenId", "ExpiredToken"):
        return f"other keys are needed in {keys.source}: these are not accepted"
    if code == "RequestTimeTooSkewed":
        return "timedatectl set-ntp true, here or on the server"
    if code in ("XMinioStorageFull", "QuotaExceeded"):
        return "free some space, or raise the bucket's quota"
    if code in ("NotImplemented", "MethodNotAllowed") or isinstance(error, _Wrong):
        return "use a server that has it: MinIO, Ceph 16 or newer, AWS S3, SeaweedFS 4"
    return _AGAIN
