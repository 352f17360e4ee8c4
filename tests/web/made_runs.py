"""Run records as drivers and steps write them, made directly: many, and in any state."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from components.runtime import record
from vila_core.store import Store

TASKS = (("prepare", "prepare"), ("sft", "sft"), ("evaluate", "evaluate"))


def write_run(
    store: Store, run_id: str, *, created_at: str | None = None, recipe: str = "toy", **more: Any
) -> None:
    """Write `run.json` of a run of three tasks, as `vila run` does."""
    run = {
        "run_id": run_id,
        "name": run_id.rsplit("-", 3)[0],
        "recipe": recipe,
        "config": {"sft": {"lr": 0.1}},
        "config_digest": "c" * 64,
        "runner": "subprocess",
        "code_digest": "d" * 64,
        "tasks": [list(task) for task in TASKS],
        **more,
    }
    record.create_run(store, run if created_at is None else {**run, "created_at": created_at})


def write_end(
    store: Store, run_id: str, status: str, *, error: str | None = None, attempts: bool = True
) -> None:
    """Drive a run to its end, with an attempt of each task."""
    record.begin_driver(store, run_id)
    for name, stage in TASKS if attempts else ():
        writer = begin_task(store, run_id, name, stage)
        kind = {"kind": "UserError", "message": error or "it broke"}
        failed = name == "sft" and status == "failed"
        writer.finish(
            {
                "status": "failed" if failed else "succeeded",
                "exit_code": int(failed),
                "duration_s": 12.5,
                "outputs": {},
                "metrics": {"loss": 2.5} if stage == "sft" else {"toy/accuracy@0": 0.5},
                "error": kind if failed else None,
                "cached_from": None,
            }
        )
        if failed:
            break
    record.end_run(store, run_id, status, error)


def begin_task(
    store: Store,
    run_id: str,
    name: str,
    stage: str,
    rows: Sequence[Mapping[str, Any]] = (),
    log: str = "",
) -> record.AttemptWriter:
    """Start an attempt with rows of metrics and a log."""
    writer = record.AttemptWriter(store, run_id, name, {"stage": stage, "key": "k"})
    (writer.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (writer.folder / "log.txt").write_text(log)
    writer.sync()
    return writer


def drive_elsewhere(store: Store, run_id: str, *, started_at: str) -> None:
    """Let a driver of another machine hold the run."""
    driver = {**record.identity(), "host": platform.node() + "-x", "started_at": started_at}
    store.write(f"runs/{run_id}/driver.json", json.dumps(driver).encode())
