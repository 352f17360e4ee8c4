"""Recurring runs: every trigger of a schedule is a run of its own, which its first task records.

    schedules/<schedule>/run.json cluster.json pipeline.yaml   what each of its runs begins with

KFP starts the runs, so nobody but the tasks is there to say which run they are of. All tasks of a
run see the same id of KFP's, and so agree without asking each other.
"""

from __future__ import annotations

import contextlib
import json
import os

from components.runtime import record
from components.runtime.context import Context
from vila_core.errors import AlreadyExists, NotFound, UserError
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store

KFP_RUN = "VILA_KFP_RUN"
"""Environment variable with KFP's id of the run."""


def place(schedule: str, name: str) -> str:
    """Return the key of a file of a schedule."""
    return f"schedules/{schedule}/{name}"


def triggered_run(name: str, kfp_run: str) -> str:
    """Return the run id for a run of KFP's (a UUID): as other ids, the name and three parts."""
    return f"{name}-kfp-{kfp_run[:8]}-{kfp_run[9:13]}"


def begin_triggered(context: Context) -> Context:
    """Return the context of the run that this task is part of; write its record if it has none.

    Raises UserError outside of KFP, and where the schedule is gone from the store.
    """
    assert context.schedule is not None
    kfp_run = os.environ.get(KFP_RUN, "")
    if not kfp_run:
        raise UserError(f"a task of schedule {context.schedule} needs {KFP_RUN}: KFP's run id.")
    run_id = triggered_run(context.run_id, kfp_run)
    _record(open_store(context.store), context.schedule, run_id, kfp_run)
    return context.model_copy(update={"run_id": run_id, "schedule": None})


def _record(store: Store, schedule: str, run_id: str, kfp_run: str) -> None:
    if store.exists(f"runs/{run_id}/run.json"):
        return
    try:
        run = json.loads(store.read(place(schedule, "run.json")))
        cluster = json.loads(store.read(place(schedule, "cluster.json")))
    except NotFound:
        raise UserError(
            f"schedule {schedule} is not in {store.uri} (any more); fix: delete the recurring run "
            "in Kubeflow Pipelines, and start a new one with: vila run RECIPE --schedule CRON"
        ) from None
    with contextlib.suppress(NotFound):
        text = store.read(place(schedule, "pipeline.yaml"))
        store.write(f"runs/{run_id}/pipeline.yaml", text)
    cluster = {**cluster, "submitted_at": record.now()}
    cluster["kfp"] = {**cluster["kfp"], "run_id": kfp_run}
    if cluster["kfp"].get("ui"):
        cluster["kfp"]["url"] = f"{cluster['kfp']['ui']}/#/runs/details/{kfp_run}"
    store.write(f"runs/{run_id}/cluster.json", dumps(cluster, indent=1).encode())
    with contextlib.suppress(AlreadyExists):  # another first task was faster
        # Last: what has a run.json is a run.
        record.create_run(store, {**run, "run_id": run_id, "schedule": schedule})
