"""What a model was made from: the tasks of its run that lead to it, with their keys and inputs."""

from __future__ import annotations

from typing import Any

from components.runtime.record import Attempt, RunRecord
from components.runtime.services import StageServices
from vila_core.jsonio import digest


def lineage_of(services: StageServices) -> dict[str, Any]:
    """Return, by task, all that the inputs of this task were made from, as its run recorded it."""
    record = RunRecord.load(services.store, services.run_id)
    makers: dict[str, Attempt] = {}
    for attempts in record.tasks.values():
        for attempt in attempts:
            for output in ((attempt.finished or {}).get("outputs") or {}).values():
                makers[output["sha256"]] = attempt
    found: dict[str, Any] = {}
    todo = [ref.sha256 for ref in services.inputs.values()]
    while todo:
        attempt = makers.get(todo.pop())
        if attempt is None or attempt.task in found:
            continue  # an input from outside of the run
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
        todo += parts["inputs"].values()
    return {
        "tasks": found,
        "config_digest": record.run.get("config_digest"),
        "code_digest": record.run.get("code_digest"),
        "register": {"key": services.key.key, "inputs": services.key.parts["inputs"]},
    }
