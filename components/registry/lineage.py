"""What a model was made from: the tasks of its run that lead to it, with their keys and inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.runtime.record import Attempt, RunRecord
from vila_core.jsonio import digest


def lineage_of(record: RunRecord, key: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return, by task, all that `inputs` (sha256 by name) were made from, as the run recorded it.

    `key` is what the registered version goes by in its run.
    """
    found: dict[str, Any] = {}
    for attempt in ancestors(record, inputs.values()):
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
    return {
        "tasks": found,
        "config_digest": record.run.get("config_digest"),
        "code_digest": record.run.get("code_digest"),
        "register": {"key": key, "inputs": dict(inputs)},
    }


def ancestors(record: RunRecord, artifacts: Iterable[str]) -> list[Attempt]:
    """Return the attempts of a run that artifacts (sha256) were made by, directly or not."""
    makers: dict[str, Attempt] = {}
    for attempts in record.tasks.values():
        for attempt in attempts:
            for output in ((attempt.finished or {}).get("outputs") or {}).values():
                makers[output["sha256"]] = attempt
    found: dict[str, Attempt] = {}
    todo = list(artifacts)
    while todo:
        attempt = makers.get(todo.pop())
        if attempt is None or attempt.task in found or not attempt.started.get("key_parts"):
            continue  # an input from outside of the run
        found[attempt.task] = attempt
        todo += attempt.started["key_parts"]["inputs"].values()
    return list(found.values())
