"""The Kubernetes API over objects in memory."""

from __future__ import annotations

import copy
import itertools
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from tests.api_server.answers import Answer, Refused, Request, failure
from tests.api_server.kinds import BUILT_IN, CUSTOM, Kinds, definition
from tests.api_server.values import as_line, asked, at, bare, drop, leaves, merge, now, selected

VALIDATED = "1.31"
Key = tuple[str, str, str, str]  # group, plural, namespace ("" in cluster scope), name
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
    r"(?:/(?P<sub>[^/]+))?"
)


class Kube:
    """Objects, their history, and the rights to them. All methods may be called from any thread."""

    def __init__(self) -> None:
        self.kinds: Kinds = {place: dict(kinds) for place, kinds in BUILT_IN.items()}
        self.objects: dict[Key, dict[str, Any]] = {}
        self.denied: set[tuple[str, str]] = set()
        self.version = {"major": "1", "minor": "31", "gitVersion": "v1.31.4"}
        self._changed = threading.Condition(threading.RLock())
        self._events: list[tuple[int, str, Key, dict[str, Any]]] = []
        self._revision = itertools.count(1)
        self._latest = self._oldest = 0
        self._logs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        self._owners: dict[Key, dict[str, tuple[str, Any]]] = defaultdict(dict)
        self._closed = False
        for name in ("default", "kube-system", "kubeflow", "vila"):
            self.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    # ---- for tests: what controllers, kubelets and administrators do ---------------------------

    def install(self, *groups: str) -> None:
        """Install CRDs: of these groups, or all of the target platform."""
        for (group, version), kinds in CUSTOM.items():
            if groups and group not in groups:
                continue
            self.kinds[group, version] = dict(kinds)
            for plural, (kind, namespaced) in kinds.items():
                self.add(definition(group, version, plural, kind, namespaced))

    def add(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Put an object there, status included; an existing one is replaced."""
        value = copy.deepcopy(dict(value))
        key = self._key_of(value)
        with self._changed:
            return self._store(key, value, "MODIFIED" if key in self.objects else "ADDED")

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a copy of an object, None when it is not there."""
        with self._changed:
            return copy.deepcopy(self.objects.get(self._key(api_version, kind, namespace, name)))

    def find(self, kind: str, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Return copies of all objects of a kind."""
        with self._changed:
            return [
                copy.deepcopy(value)
                for (_, _, space, _), value in sorted(self.objects.items())
                if value["kind"] == kind
                and namespace in ("", space)
                and selected(value, selector, "")
            ]

    def set_status(
        self, api_version: str, kind: str, namespace: str, name: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace an object's status."""
        key = self._key(api_version, kind, namespace, name)
        with self._changed:
            value = {**self.objects[key], "status": copy.deepcopy(dict(status))}
            return self._store(key, value, "MODIFIED")

    def remove(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        """Delete an object and what it owns, whatever finalizers say."""
        with self._changed:
            self._remove(self._key(api_version, kind, namespace, name))

    def event(self, about: Mapping[str, Any], reason: str, message: str, kind: str = "Warning"):
        """Write an Event about an object."""
        meta = about["metadata"]
        return self.add(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{meta['name']}.{uuid.uuid4().hex[:12]}",
                    "namespace": meta.get("namespace", "default"),
                },
                "involvedObject": {
                    "apiVersion": about["apiVersion"],
                    "kind": about["kind"],
                    "name": meta["name"],
                    "namespace": meta.get("namespace", "default"),
                    "uid": meta.get("uid", ""),
                },
                "reason": reason,
                "message": message,
                "type": kind,
                "count": 1,
                "firstTimestamp": now(),
                "lastTimestamp": now(),
                "source": {"component": "tests"},
                "reportingComponent": "",
                "reportingInstance": "",
            }
        )

    def write_log(self, namespace: str, pod: str, *lines: str, container: str = "") -> None:
        """Append lines to a container's log (of the pod's first container, if not named)."""
        with self._changed:
            self._logs[namespace, pod, container or self._container(namespace, pod)] += lines
            self._changed.notify_all()

    def compact(self) -> None:
        """Forget the history: a watch from before is answered with 410 Expired."""
        with self._changed:
            self._oldest = self._latest
            self._events.clear()

    def close(self) -> None:
        """End all watches."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ---- answers -------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Answer a request as an API server would."""
        try:
            return self._general(request) or self._resource(request)
        except Refused as refused:
            return refused.answer

    def _general(self, request: Request) -> Answer | None:
        path = request.path
        if path == "/version":
            return Answer(body={**self.version, "platform": "linux/amd64"})
        if path in ("/healthz", "/readyz", "/livez"):
            return Answer(body=b"ok", content_type="text/plain")
        if path == "/apis":
            return Answer(
                body={"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()}
            )
        if path == "/api":
            return Answer(body={"kind": "APIVersions", "versions": ["v1"]})
        if found := re.fullmatch(r"/apis/([^/]+)/([^/]+)|/api/(v1)", path):
            return self._resources(found[1] or "", found[2] or found[3])
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            return self._review(request.json())
        return None

    def _resource(self, request: Request) -> Answer:
        found = _PATH.fullmatch(request.path)
        place = (found["group"] or "", found["version"]) if found else ("", "")
        kinds = self.kinds.get(place, {})
        if found is None or found["plural"] not in kinds:
            raise Refused(
                failure(404, "NotFound", "the server could not find the requested resource")
            )
        plural, namespace, name, sub = (
            found[part] for part in ("plural", "namespace", "name", "sub")
        )
        verb = _verb(request, name)
        self._check_right(verb, f"{plural}/{sub}" if sub else plural, place[0], namespace, name)
        key = (place[0], plural, namespace or "", name or "")
        if sub == "log":
            return self._log(request, namespace or "", name)
        with self._changed:
            if name is None:
                return self._collection(request, verb, place, key)
            return self._single(request, verb, place, key, sub)

    def _collection(self, request: Request, verb: str, place: tuple[str, str], key: Key) -> Answer:
        kind = self.kinds[place][key[1]][0]
        if verb == "watch":
            return Answer(lines=self._watch(request.query, key))
        if verb == "list":
            return self._list(request.query, place, key, kind)
        if verb == "deletecollection":
            for other in self._matching(key, request.query):
                self._delete(other)
            return Answer(body={"kind": "Status", "apiVersion": "v1", "status": "Success"})
        value = request.json()
        meta = value.setdefault("metadata", {})
        if "name" not in meta and "generateName" in meta:
            meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
        new = (key[0], key[1], key[2], meta.get("name", ""))
        if new in self.objects:
            text = f'{key[1]} "{new[3]}" already exists'
            raise Refused(failure(409, "AlreadyExists", text, name=new[3], kind=key[1]))
        return self._write(request, new, value, place, created=True)

    def _single(
        self, request: Request, verb: str, place: tuple[str, str], key: Key, sub: str | None
    ) -> Answer:
        old = self.objects.get(key)
        if request.content_type.startswith("application/apply-patch"):
            return self._apply(request, place, key, old)
        if old is None:
            text = f'{key[1]} "{key[3]}" not found'
            raise Refused(failure(404, "NotFound", text, name=key[3], kind=key[1]))
        if verb == "get":
            return Answer(body=copy.deepcopy(old))
        if verb == "delete":
            if "dryRun" not in request.query:
                self._delete(key)
            return Answer(body=copy.deepcopy(old))
        value = request.json()
        if verb == "patch":
            value = merge(old, value)
        expected = value.get("metadata", {}).get("resourceVersion")
        if expected not in (None, old["metadata"]["resourceVersion"]):
            text = f'cannot be fulfilled on {key[1]} "{key[3]}": the object has been modified'
            raise Refused(failure(409, "Conflict", text, name=key[3], kind=key[1]))
        if sub == "status":
            value = {**old, "status": value.get("status", {})}
        elif "status" in old:
            value = {**value, "status": old["status"]}
        return self._write(request, key, value, place)

    def _write(
        self,
        request: Request,
        key: Key,
        value: dict[str, Any],
        place: tuple[str, str],
        *,
        created: bool = False,
    ) -> Answer:
        kind, namespaced = self.kinds[place][key[1]]
        if namespaced and ("", "namespaces", "", key[2]) not in self.objects:
            raise Refused(failure(404, "NotFound", f'namespaces "{key[2]}" not found', name=key[2]))
        value.setdefault("apiVersion", "/".join(part for part in place if part))
        value.setdefault("kind", kind)
        if namespaced:
            value.setdefault("metadata", {})["namespace"] = key[2]
        _check_schema(place, value)
        if "dryRun" in request.query:
            return Answer(201 if created else 200, value)
        stored = self._store(key, value, "ADDED" if created else "MODIFIED")
        return Answer(201 if created else 200, copy.deepcopy(stored))

    def _apply(
        self, request: Request, place: tuple[str, str], key: Key, old: dict[str, Any] | None
    ) -> Answer:
        """Server-side apply; owners are kept per plain field, lists count as one field."""
        value = request.json()
        manager = request.query.get("fieldManager", "")
        if not manager:
            raise Refused(failure(400, "BadRequest", "fieldManager is required for apply patch"))
        mine = dict(leaves({k: v for k, v in value.items() if k != "metadata"}))
        taken = {
            path: owner
            for path, (owner, _) in self._owners[key].items()
            if path in mine and owner != manager and at(old, path) != mine[path]
        }
        if taken and not _true(request.query, "force"):
            text = "; ".join(f'conflict with "{owner}": .{path}' for path, owner in taken.items())
            raise Refused(failure(409, "Conflict", f"Apply failed with 1 conflict: {text}"))
        before = copy.deepcopy(old) if old else {}
        for path, (owner, _) in list(self._owners[key].items()):
            if owner == manager and path not in mine:
                drop(before, path)
        merged = merge(before, value)
        unchanged = old is not None and bare(merged) == bare(old)
        if "dryRun" not in request.query:
            fields = self._owners[key]
            for path in [path for path, (owner, _) in fields.items() if owner == manager]:
                del fields[path]
            fields.update({path: (manager, leaf) for path, leaf in mine.items()})
        if unchanged:
            return Answer(body=copy.deepcopy(old))
        return self._write(request, key, merged, place, created=old is None)

    def _list(
        self, query: Mapping[str, str], place: tuple[str, str], key: Key, kind: str
    ) -> Answer:
        keys = self._matching(key, query)
        start = int(query.get("continue") or 0)
        limit = int(query.get("limit") or 0) or len(keys)
        page = keys[start : start + limit]
        meta: dict[str, Any] = {"resourceVersion": str(self._latest)}
        if start + limit < len(keys):
            meta |= {
                "continue": str(start + limit),
                "remainingItemCount": len(keys) - start - limit,
            }
        return Answer(
            body={
                "kind": f"{kind}List",
                "apiVersion": "/".join(part for part in place if part),
                "metadata": meta,
                "items": [copy.deepcopy(self.objects[found]) for found in page],
            }
        )

    def _matching(self, key: Key, query: Mapping[str, str]) -> list[Key]:
        return sorted(
            other
            for other, value in self.objects.items()
            if other[:2] == key[:2] and key[2] in ("", other[2]) and asked(value, query)
        )

    def _watch(self, query: Mapping[str, str], key: Key) -> Iterator[bytes]:
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        since = query.get("resourceVersion") or "0"
        with self._changed:
            seen = int(since)
            if seen and seen < self._oldest:
                gone = failure(410, "Expired", f"too old resource version: {since}").body
                yield as_line({"type": "ERROR", "object": gone})
                return
            if not seen:
                seen = self._latest
                for other in self._matching(key, query):
                    yield as_line({"type": "ADDED", "object": self.objects[other]})
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._latest > seen,  # noqa: B023
                    max(0.0, deadline - time.monotonic()),
                )
                news = [event for event in self._events if event[0] > seen]
                seen = max([seen, *(event[0] for event in news)])
                ended = self._closed or time.monotonic() >= deadline
            for _, kind, other, value in news:
                if other[:2] == key[:2] and key[2] in ("", other[2]) and asked(value, query):
                    yield as_line({"type": kind, "object": value})
            if ended:
                return

    def _log(self, request: Request, namespace: str, pod: str) -> Answer:
        with self._changed:
            if ("", "pods", namespace, pod) not in self.objects:
                raise Refused(failure(404, "NotFound", f'pods "{pod}" not found', name=pod))
            container = request.query.get("container") or self._container(namespace, pod)
            lines = self._logs[namespace, pod, container]
        count = request.query.get("tailLines")
        start = max(0, len(lines) - int(count)) if count else 0
        if not _true(request.query, "follow"):
            text = "".join(f"{line}\n" for line in lines[start:])
            return Answer(body=text.encode(), content_type="text/plain")
        return Answer(lines=self._follow(namespace, pod, lines, start), content_type="text/plain")

    def _follow(self, namespace: str, pod: str, lines: list[str], at: int) -> Iterator[bytes]:
        key = ("", "pods", namespace, pod)

        def over() -> bool:
            phase = self.objects.get(key, {}).get("status", {}).get("phase")
            return self._closed or key not in self.objects or phase in ("Succeeded", "Failed")

        while True:
            with self._changed:
                self._changed.wait_for(lambda: over() or len(lines) > at, 300)  # noqa: B023
                news, ended = lines[at:], over()
            for line in news:
                yield f"{line}\n".encode()
            at += len(news)
            if ended and at >= len(lines):
                return

    def _review(self, asked: dict[str, Any]) -> Answer:
        what = asked["spec"]["resourceAttributes"]
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
        allowed = (what["verb"], resource) not in self.denied
        return Answer(201, {**asked, "status": {"allowed": allowed}})

    def _check_right(
        self, verb: str, resource: str, group: str, namespace: str | None, name: str | None
    ) -> None:
        if (verb, resource) in self.denied:
            what = f"{resource}.{group}" if group else resource
            named = f'{what} "{name}"' if name else what
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            text = (
                f'{named} is forbidden: User "tester" cannot {verb} resource "{resource}" '
                f'in API group "{group}" {where}'
            )
            raise Refused(failure(403, "Forbidden", text, kind=resource, group=group))

    def _groups(self) -> list[dict[str, Any]]:
        found: dict[str, list[str]] = defaultdict(list)
        for group, version in self.kinds:
            if group:
                found[group].append(version)
        return [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{v}", "version": v} for v in versions],
                "preferredVersion": {
                    "groupVersion": f"{group}/{versions[0]}",
                    "version": versions[0],
                },
            }
            for group, versions in found.items()
        ]

    def _resources(self, group: str, version: str) -> Answer:
        kinds = self.kinds.get((group, version))
        if kinds is None:
            raise Refused(
                failure(404, "NotFound", "the server could not find the requested resource")
            )
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        return Answer(
            body={
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{group}/{version}" if group else version,
                "resources": [
                    {
                        "name": plural,
                        "singularName": kind.lower(),
                        "namespaced": namespaced,
                        "kind": kind,
                        "verbs": verbs,
                    }
                    for plural, (kind, namespaced) in kinds.items()
                ],
            }
        )

    # ---- objects -------------------------------------------------------------------------------

    def _store(self, key: Key, value: dict[str, Any], event: str) -> dict[str, Any]:
        old = self.objects.get(key)
        self._latest = next(self._revision)
        meta = value["metadata"]
        before = old["metadata"] if old else {}
        meta["uid"] = before.get("uid") or meta.get("uid") or str(uuid.uuid4())
        meta["creationTimestamp"] = (
            before.get("creationTimestamp") or meta.get("creationTimestamp") or now()
        )
        meta["resourceVersion"] = str(self._latest)
        if value["kind"] == "Pod":
            value.setdefault("status", {"phase": "Pending"})
        if "spec" in value:
            changed = old is not None and old.get("spec") != value["spec"]
            meta["generation"] = before.get("generation", 1) + changed
        self.objects[key] = value
        self._tell(event, key)
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self._remove(key)
        elif value["kind"] == "CustomResourceDefinition":
            self._serve(value)
        return value

    def _serve(self, crd: dict[str, Any]) -> None:
        spec = crd["spec"]
        for version in spec["versions"]:
            kinds = self.kinds.setdefault((spec["group"], version["name"]), {})
            kinds[spec["names"]["plural"]] = (
                spec["names"]["kind"],
                spec["scope"] == "Namespaced",
            )

    def _delete(self, key: Key) -> None:
        value = self.objects[key]
        if value["metadata"].get("finalizers"):
            value["metadata"]["deletionTimestamp"] = now()
            self._store(key, value, "MODIFIED")
            return
        self._remove(key)

    def _remove(self, key: Key) -> None:
        value = self.objects[key]
        self._latest = next(self._revision)
        value["metadata"]["resourceVersion"] = str(self._latest)
        self._tell("DELETED", key)
        del self.objects[key]
        self._owners.pop(key, None)
        uid = value["metadata"]["uid"]
        for other, owned in list(self.objects.items()):
            owners = owned["metadata"].get("ownerReferences", [])
            inside = value["kind"] == "Namespace" and other[2] == key[3]
            if other in self.objects and (inside or any(owner["uid"] == uid for owner in owners)):
                self._delete(other)

    def _tell(self, event: str, key: Key) -> None:
        self._events.append((self._latest, event, key, copy.deepcopy(self.objects[key])))
        self._changed.notify_all()

    def _key_of(self, value: Mapping[str, Any]) -> Key:
        meta = value["metadata"]
        return self._key(
            value["apiVersion"], value["kind"], meta.get("namespace", ""), meta["name"]
        )

    def _key(self, api_version: str, kind: str, namespace: str, name: str) -> Key:
        group, _, version = api_version.rpartition("/")
        for plural, (found, namespaced) in self.kinds.get((group, version), {}).items():
            if found == kind:
                return (group, plural, namespace if namespaced else "", name)
        raise KeyError(f"{api_version} {kind} is not served")

    def _container(self, namespace: str, pod: str) -> str:
        return self.objects["", "pods", namespace, pod]["spec"]["containers"][0]["name"]


def _true(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _verb(request: Request, name: str | None) -> str:
    if request.method == "GET":
        if _true(request.query, "watch"):
            return "watch"
        return "get" if name else "list"
    if request.method == "DELETE":
        return "delete" if name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}[request.method]


def _check_schema(place: tuple[str, str], value: dict[str, Any]) -> None:
    """Refuse unknown and mistyped fields of built-in kinds, as `fieldValidation=Strict` does."""
    import kubernetes_validate

    if place not in BUILT_IN:
        return
    try:
        kubernetes_validate.validate(value, VALIDATED, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(part) for part in error.path)
        name = value["metadata"].get("name")
        text = f'{value["kind"]} "{name}" is invalid: {where}: {error.message}'
        raise Refused(failure(422, "Invalid", text)) from None
