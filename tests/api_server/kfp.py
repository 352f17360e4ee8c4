"""Kubeflow Pipelines' API, v2beta1, over objects in memory. Nothing is executed."""

from __future__ import annotations

import copy
import email.parser
import email.policy
import json
import re
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from tests.api_server.answers import Answer, Refused, Request

ROOT = "/apis/v2beta1/"
_KINDS = {  # plural -> (id field, model of kfp_server_api)
    "experiments": ("experiment_id", "V2beta1Experiment"),
    "pipelines": ("pipeline_id", "V2beta1Pipeline"),
    "versions": ("pipeline_version_id", "V2beta1PipelineVersion"),
    "runs": ("run_id", "V2beta1Run"),
    "recurringruns": ("recurring_run_id", "V2beta1RecurringRun"),
}
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_OPERATIONS = {1: "EQUALS", 2: "NOT_EQUALS", 7: "IN", 9: "IS_SUBSTRING", 8: "IS_SUBSTRING"}


class Kfp:
    """Pipelines, experiments, runs. All methods may be called from any thread."""

    def __init__(self) -> None:
        self.version = "2.17.0"
        self.healthy = True
        self.cancel_at_once = True  # else a terminated run stays CANCELING
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in _KINDS}
        self.lock = threading.RLock()

    # ---- for tests: what the engine does -------------------------------------------------------

    def set_state(
        self, run_id: str, state: str, error: str = "", tasks: list[dict[str, Any]] | None = None
    ) -> None:
        """Bring a run into a state; `tasks` are its task details."""
        with self.lock:
            run = self.objects["runs"][run_id]
            run["state"] = state
            run.setdefault("state_history", []).append({"update_time": _now(), "state": state})
            if state in TERMINAL:
                run["finished_at"] = _now()
            if error:
                run["error"] = {"code": 2, "message": error}
            if tasks is not None:
                run["run_details"] = {"task_details": tasks}

    def runs(self) -> list[dict[str, Any]]:
        """Return copies of all runs, the oldest first."""
        with self.lock:
            return copy.deepcopy(list(self.objects["runs"].values()))

    def documents(self, run_id: str) -> list[dict[str, Any]]:
        """Return the pipeline spec and the platform spec that a run executes."""
        with self.lock:
            run = self.objects["runs"][run_id]
            spec = run.get("pipeline_spec")
            if spec is None:
                version = run["pipeline_version_reference"]["pipeline_version_id"]
                spec = self.objects["versions"][version]["pipeline_spec"]
            spec = copy.deepcopy(spec)
        if "pipeline_spec" in spec:
            return [spec["pipeline_spec"], spec.get("platform_spec", {})]
        return [spec]

    # ---- answers -------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Answer a request as KFP's API server would."""
        with self.lock:
            try:
                return Answer(body=copy.deepcopy(self._answer(request)))
            except Refused as refused:
                return refused.answer

    def _answer(self, request: Request) -> Any:
        path, method = request.path.removeprefix(ROOT), request.method
        if path == "healthz":
            if not self.healthy:
                raise _refused(503, 14, "the database is not reachable")
            return {"tag_name": self.version, "multi_user": False}
        if path == "pipelines/upload":
            return self._upload(request)
        if path == "pipelines/upload_version":
            return self._upload_version(request)
        if found := re.fullmatch(r"(runs|recurringruns|experiments)/([^/:]+):(\w+)", path):
            return self._act(*found.groups())
        if found := re.fullmatch(r"pipelines/names/(.+)", path):
            return self._named("pipelines", found[1])
        if found := re.fullmatch(r"pipelines/([^/]+)/versions(?:/([^/]+))?", path):
            self._one("pipelines", found[1])
            if found[2]:
                return self._one("versions", found[2], delete=method == "DELETE")
            return self._list("versions", request.query, {"pipeline_id": found[1]})
        found = re.fullmatch(r"(experiments|pipelines|runs|recurringruns)(?:/([^/]+))?", path)
        if found is None:
            raise _refused(404, 5, f"Not Found: {request.path}")
        if found[2]:
            return self._one(found[1], found[2], delete=method == "DELETE")
        if method == "POST":
            return self._create(found[1], request.json())
        only = {name: request.query[name] for name in ("experiment_id",) if name in request.query}
        return self._list(found[1], request.query, only)

    def _create(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        _check(kind, value)
        if kind in ("experiments", "pipelines"):
            name = value.get("display_name")
            if any(other["display_name"] == name for other in self.objects[kind].values()):
                raise _refused(409, 6, f"Already exist error: {kind} {name} already exists")
        else:
            self._check_runnable(value)
        if kind == "runs":
            value |= {"state": "PENDING", "storage_state": "AVAILABLE"}
            value["state_history"] = [{"update_time": _now(), "state": "PENDING"}]
        if kind == "recurringruns":
            value["status"] = "ENABLED" if value.get("mode") != "DISABLE" else "DISABLED"
        return self._keep(kind, value)

    def _check_runnable(self, value: dict[str, Any]) -> None:
        reference = value.get("pipeline_version_reference")
        if reference:
            version = self._one("versions", reference.get("pipeline_version_id", ""))
            spec = version["pipeline_spec"]
        elif value.get("pipeline_spec"):
            spec = value["pipeline_spec"]
        else:
            raise _refused(400, 3, "Invalid input error: a run needs a pipeline")
        if "experiment_id" in value:
            self._one("experiments", value["experiment_id"])
        inner = spec.get("pipeline_spec", spec)
        declared = inner["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (value.get("runtime_config") or {}).get("parameters") or {}
        missing = [
            name
            for name, what in declared.items()
            if name not in given and "defaultValue" not in what and not what.get("isOptional")
        ]
        unknown = [name for name in given if name not in declared]
        if missing or unknown:
            raise _refused(
                400, 3, f"Invalid input error: parameters missing: {missing}, unknown: {unknown}"
            )

    def _act(self, kind: str, name: str, action: str) -> dict[str, Any]:
        value = self._one(kind, name)
        if action == "terminate":
            if value["state"] in TERMINAL:
                raise _refused(
                    400, 3, "Invalid input error: Failed to terminate a run that has finished"
                )
            self.set_state(name, "CANCELED" if self.cancel_at_once else "CANCELING")
        elif action in ("enable", "disable"):
            value["status"] = f"{action.upper()}D"
        elif action in ("archive", "unarchive"):
            value["storage_state"] = "ARCHIVED" if action == "archive" else "AVAILABLE"
        else:
            raise _refused(404, 5, f"Not Found: {action}")
        return {}

    def _upload(self, request: Request) -> dict[str, Any]:
        name = request.query.get("name") or request.query.get("display_name") or ""
        spec = _pipeline_spec(request)
        value = {"display_name": request.query.get("display_name") or name, "name": name}
        value["description"] = request.query.get("description", "")
        pipeline = self._create("pipelines", value)
        self._keep(
            "versions", {**value, "pipeline_id": pipeline["pipeline_id"], "pipeline_spec": spec}
        )
        return pipeline

    def _upload_version(self, request: Request) -> dict[str, Any]:
        pipeline = self._one("pipelines", request.query.get("pipelineid", ""))["pipeline_id"]
        name = request.query.get("name") or ""
        known = self.objects["versions"].values()
        if any(v["pipeline_id"] == pipeline and v["name"] == name for v in known):
            raise _refused(409, 6, f"Already exist error: version {name} already exists")
        return self._keep(
            "versions",
            {
                "pipeline_id": pipeline,
                "name": name,
                "display_name": request.query.get("display_name") or name,
                "description": request.query.get("description", ""),
                "pipeline_spec": _pipeline_spec(request),
            },
        )

    def _keep(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        field = _KINDS[kind][0]
        value = {**value, field: str(uuid.uuid4()), "created_at": _now()}
        self.objects[kind][value[field]] = value
        return value

    def _one(self, kind: str, name: str, *, delete: bool = False) -> dict[str, Any]:
        value = self.objects[kind].get(name)
        if value is None:
            raise _refused(404, 5, f"ResourceNotFoundError: {kind} {name} not found.")
        if delete:
            del self.objects[kind][name]
            return {}
        return value

    def _named(self, kind: str, name: str) -> dict[str, Any]:
        for value in self.objects[kind].values():
            if name in (value.get("name"), value.get("display_name")):
                return value
        raise _refused(404, 5, f"ResourceNotFoundError: {kind} {name} not found.")

    def _list(self, kind: str, query: Mapping[str, str], only: Mapping[str, str]) -> dict[str, Any]:
        found = [
            value
            for value in self.objects[kind].values()
            if all(value.get(name) == wanted for name, wanted in only.items())
            and _filtered(value, query.get("filter"))
        ]
        if "desc" in query.get("sort_by", ""):
            found.reverse()
        start = int(query.get("page_token") or 0)
        size = int(query.get("page_size") or 0) or 10
        plural = {"versions": "pipeline_versions", "recurringruns": "recurringRuns"}.get(kind, kind)
        told: dict[str, Any] = {"total_size": len(found)}
        if found:  # an empty list is left out, as protobuf's JSON does
            told[plural] = found[start : start + size]
        if start + size < len(found):
            told["next_page_token"] = str(start + size)
        return told


def _check(kind: str, value: dict[str, Any]) -> None:
    """Refuse a field that the client's own OpenAPI model does not know."""
    import kfp_server_api

    known = getattr(kfp_server_api, _KINDS[kind][1]).attribute_map.values()
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise _refused(400, 3, f"unknown field: {', '.join(unknown)}")


def _filtered(value: dict[str, Any], text: str | None) -> bool:
    for predicate in json.loads(text)["predicates"] if text else ():
        operation = predicate["operation"]
        operation = _OPERATIONS.get(operation, operation)
        wanted = predicate.get("stringValue", predicate.get("string_value", ""))
        name = predicate["key"]
        have = value.get(name, value.get("display_name") if name == "name" else None) or ""
        if operation == "EQUALS" and have != wanted:
            return False
        if operation == "IS_SUBSTRING" and wanted not in have:
            return False
    return True


def _pipeline_spec(request: Request) -> dict[str, Any]:
    """Return the uploaded documents: the spec alone, or with `platform_spec` beside it."""
    head = f"Content-Type: {request.content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        documents = list(yaml.safe_load_all(data)) if isinstance(data, bytes) else []
        if documents and "pipelineInfo" in documents[0]:
            if len(documents) == 1:
                return documents[0]
            return {"pipeline_spec": documents[0], "platform_spec": documents[1]}
    raise _refused(400, 3, "Invalid input error: the file is no compiled pipeline")


def _refused(status: int, code: int, message: str) -> Refused:
    body = {"error": message, "code": code, "message": message, "details": []}
    return Refused(Answer(status, body))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
