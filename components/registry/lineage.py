"""What a model was made from: the tasks of its run that lead to it, with their keys and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from components.runtime.record import Attempt, RunRecord
from components.runtime.services import StageServices
from vila_core.jsonio import digest


def lineage_of(services: StageServices) -> dict[str, Any]:
    """Return, by task, all that the inputs of this task were made from, as its run recorded it."""
    found: dict[str, Any] = {}
    for attempt in ancestors(services, [ref.sha256 for ref in services.inputs.values()]):
        parts = attempt.started["key_parts"]
        found[attempt.task] = {
            "stage": parts["stage"],
            "key": attempt.started["key"],
            "config_digest": digest(parts["config"]),
            "code_digest": parts["code"]["digest"],
            "inputs": parts["inputs"],
            "outputs": {name: ref["sha256"] for name, ref in attempt.finished["outputs"].items()}
            if attempt.finished
            else {},
        }
    record = RunRecord.load(services.store, services.run_id)
    return {
        "tasks": found,
        "config_digest": record.run.get("config_digest"),
        "code_digest": record.run.get("code_digest"),
        "register": {"key": services.key.key, "inputs": services.key.parts["inputs"]},
    }


def ancestors(services: StageServices, artifacts: Iterable[str]) -> list[Attempt]:
    """Return the attempts of this run that artifacts (sha256) were made by, directly or not."""
    record = RunRecord.load(services.store, services.run_id)
    makers: dict[str, Attempt] = {}
    for attempts in record.tasks.values():
        for attempt in attempts:
            for output in ((attempt.finished or {}).get("outputs") or {}).values():
                makers[output["sha256"]] = attempt
    found: dict[str, Attempt] = {}
    todo = list(artifacts)
    while todo:
        attempt = makers.get(todo.pop())
        if attempt is None or attempt.task in found:
            continue  # an input from outside of the run
        found[attempt.task] = attempt
        todo += attempt.started["key_parts"]["inputs"].values()
    return list(found.values())
