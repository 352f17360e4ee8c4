"""Objects of any kind by their address: read, list, create, apply, change, delete, watch.

An object is the JSON of the API, an address what `address` returns. All raise ClusterError.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from components.kube.errors import Absent, Expired, NoAnswer, Request, refusal, silence

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = dict[str, Any]
Query = Sequence[tuple[str, Any]]
_PAGE = 500


def address(api_version: str, plural: str, namespace: str = "", name: str = "") -> str:
    """Return the path of a collection, or with `name` of an object.

    `api_version` is as objects have it: "v1", "trainer.kubeflow.org/v1alpha1".
    """
    lead = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{lead}{where}/{plural}" + (f"/{name}" if name else "")


def call(
    api: ApiClient,
    method: str,
    path: str,
    *,
    query: Query = (),
    body: Any = None,
    content_type: str = "application/json",
) -> Any:
    """Send one request and return the answer's JSON (text, where it is none)."""
    return api.call_api(
        path,
        method,
        query_params=list(query),
        header_params={"Accept": "application/json", "Content-Type": content_type},
        body=body,
        auth_settings=["BearerToken"],
        response_type="object",
        _return_http_data_only=True,
    )


def get(api: ApiClient, path: str) -> Object:
    """Return an object. Raises Absent, KindMissing."""
    return call(api, "GET", path)


def find(api: ApiClient, path: str) -> Object | None:
    """Return an object, or None when there is none of that name (or no such kind)."""
    try:
        return get(api, path)
    except Absent:
        return None


def served(api: ApiClient, group: str) -> str | None:
    """Return the version of an API group that is preferred ("group/v1"), None without the group."""
    for found in get(api, "/apis").get("groups") or []:
        if found["name"] == group:
            return str(found["preferredVersion"]["groupVersion"])
    return None


def listed(
    api: ApiClient, path: str, *, selector: str = "", field_selector: str = ""
) -> list[Object]:
    """Return the objects of a collection, page by page. Raises KindMissing."""
    return _listed(api, path, selector, field_selector)[0]


def create(api: ApiClient, path: str, body: Object) -> Object:
    """Create an object in a collection. Raises Taken, QuotaExceeded, Invalid."""
    return call(api, "POST", path, body=body)


def merge(api: ApiClient, path: str, change: Object) -> Object:
    """Change an object by a JSON merge patch: None removes a key. Raises Absent, Changed."""
    return call(api, "PATCH", path, body=change, content_type="application/merge-patch+json")


def apply(
    api: ApiClient, path: str, body: Object, *, dry_run: bool = False, force: bool = False
) -> Object:
    """Bring an object into the state of `body` by server-side apply, made where it is missing.

    Raises Changed where another manager holds a field, unless `force` takes it.
    """
    query = [("fieldManager", "vila"), ("force", "true" if force else "false")]
    if dry_run:
        query.append(("dryRun", "All"))
    return call(
        api, "PATCH", path, query=query, body=body, content_type="application/apply-patch+yaml"
    )


def delete(api: ApiClient, path: str, *, grace_s: int | None = None) -> bool:
    """Delete an object and what it owns; return False when it was gone already.

    `grace_s` is how long its processes may take to end, instead of what the object says.
    """
    query: list[tuple[str, Any]] = [("propagationPolicy", "Background")]
    query += [] if grace_s is None else [("gracePeriodSeconds", grace_s)]
    try:
        call(api, "DELETE", path, query=query)
    except Absent:
        return False
    return True


@dataclass(frozen=True)
class Change:
    """What a watch tells. TICK has no object: it comes when nothing did for a while."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "TICK"]
    object: Object


def watch(
    api: ApiClient, path: str, *, selector: str = "", tick_s: int = 20, outage_s: float = 600
) -> Iterator[Change]:
    """Yield the objects that are there (ADDED), then every change, without end.

    It goes on over cut connections, restarts of the API and versions that are too old (410): then
    it lists again and tells what differs. At least every `tick_s` seconds something comes, a TICK
    if nothing else, so that the caller can look at other things. Raises ClusterError for a
    refusal, and NoAnswer after `outage_s` seconds without the API.
    """
    known: dict[str, Object] = {}
    version = ""
    failed_since: float | None = None
    failures = 0
    while True:
        try:
            if not version:
                objects, version = _listed(api, path, selector, "")
                yield from _differences(known, objects)
            begun = time.monotonic()
            for kind, found in _stream(api, path, selector, version, tick_s):
                version = str(found["metadata"]["resourceVersion"])
                if kind == "BOOKMARK":
                    continue
                _remember(known, kind, found)
                yield Change(kind, found)
            failed_since, failures = None, 0
            # A proxy may end every watch at once: don't ask without pause.
            time.sleep(max(0.0, min(1.0, tick_s) - (time.monotonic() - begun)))
        except Expired:
            version = ""
        except NoAnswer:
            failed_since = failed_since or time.monotonic()
            if time.monotonic() - failed_since > outage_s:
                raise
            time.sleep(api.patience.wait(min(failures, 6)))  # type: ignore[attr-defined]
            failures += 1
        yield Change("TICK", {})


def lines(api: ApiClient, path: str, *, query: Query = (), silence_s: float = 60) -> Iterator[str]:
    """Yield the lines of an answer as they come: a pod's log (`…/pods/NAME/log`).

    Raises NoAnswer when the connection breaks, or nothing came for `silence_s` seconds.
    """
    for line in _raw_lines(api, path, query, silence_s):
        yield line.decode(errors="replace")


def _listed(
    api: ApiClient, path: str, selector: str, field_selector: str
) -> tuple[list[Object], str]:
    """Return all objects and the version of the collection."""
    query: list[tuple[str, Any]] = [("limit", _PAGE)]
    query += [("labelSelector", selector)] if selector else []
    query += [("fieldSelector", field_selector)] if field_selector else []
    objects: list[Object] = []
    token, restarts = "", 0
    while True:
        more = [("continue", token)] if token else []
        try:
            page = call(api, "GET", path, query=[*query, *more])
        except Expired:
            restarts += 1
            if not token or restarts > 3:
                raise
            objects, token = [], ""  # the listing took longer than the API keeps its state
            continue
        # Items of a list lack what the list says once for all.
        shared = {"apiVersion": page.get("apiVersion", ""), "kind": _item_kind(page)}
        objects += [{**shared, **item} for item in page.get("items") or []]
        token = page.get("metadata", {}).get("continue") or ""
        if not token:
            return objects, str(page.get("metadata", {}).get("resourceVersion") or "")


def _item_kind(page: Mapping[str, Any]) -> str:
    return str(page.get("kind", "")).removesuffix("List")


def _stream(
    api: ApiClient, path: str, selector: str, version: str, tick_s: int
) -> Iterator[tuple[Any, Object]]:
    """Yield (type, object) of one watch request, which the API ends after `tick_s` seconds."""
    query = [
        ("watch", True),
        ("allowWatchBookmarks", "true"),
        ("timeoutSeconds", tick_s),
        *([("resourceVersion", version)] if version else []),
        *([("labelSelector", selector)] if selector else []),
    ]
    for line in _raw_lines(api, path, query, tick_s + 15):
        try:
            event = json.loads(line)
        except ValueError:
            return  # the end of a cut connection
        if event["type"] == "ERROR":
            asked = _asked(api, path, watching=True)
            status = {"kind": "Status", **event["object"]}
            raise refusal(asked, int(status.get("code") or 500), json.dumps(status))
        yield event["type"], event["object"]


def _raw_lines(api: ApiClient, path: str, query: Query, silence_s: float) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    patience = api.patience  # type: ignore[attr-defined]
    response: Any = api.call_api(
        path,
        "GET",
        query_params=list(query),
        header_params={"Accept": "*/*"},
        auth_settings=["BearerToken"],
        _preload_content=False,
        _return_http_data_only=True,
        _request_timeout=(patience.connect_s, silence_s),
    )
    rest = b""
    try:
        for piece in response.stream(amt=None, decode_content=False):
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line for line in whole if line)
        if rest:
            yield rest
    except (HTTPError, OSError) as error:
        raise silence(_asked(api, path), error) from error
    finally:
        response.close()
        response.release_conn()


def _asked(api: ApiClient, path: str, *, watching: bool = False) -> Request:
    server = api.server  # type: ignore[attr-defined]
    return Request("GET", f"{api.configuration.host}{path}", server, watching)


def _differences(known: dict[str, Object], objects: Sequence[Object]) -> Iterator[Change]:
    """Bring `known` to what was listed; yield what was added, changed or deleted meanwhile."""
    now = {_identity(found): found for found in objects}
    for identity in known.keys() - now.keys():
        yield Change("DELETED", known.pop(identity))
    for identity, found in now.items():
        before = known.get(identity)
        if before is None:
            known[identity] = found
            yield Change("ADDED", found)
        elif _version(before) != _version(found):
            known[identity] = found
            yield Change("MODIFIED", found)


def _remember(known: dict[str, Object], kind: str, found: Object) -> None:
    if kind == "DELETED":
        known.pop(_identity(found), None)
    else:
        known[_identity(found)] = found


def _identity(found: Object) -> str:
    meta = found["metadata"]
    return str(meta.get("uid") or f"{meta.get('namespace', '')}/{meta['name']}")


def _version(found: Object) -> str:
    return str(found["metadata"].get("resourceVersion", ""))
