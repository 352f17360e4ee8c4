"""A run on a cluster from outside: how it stands, what is wrong with it, and its end.

The record in the store tells most, from any machine and without the cluster. Kubeflow Pipelines
knows what no task can write: that one never began, or was killed. Whoever looks first after the
end writes it into the record; from then on nobody needs KFP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.client import Patience
from components.kube.errors import ClusterError, KindMissing
from components.runtime import record
from vila_core.errors import NotFound, UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.cluster import labels
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api
from vila_ops.cluster.diagnose import Finding, diagnose
from vila_ops.cluster.kfp import TERMINAL, Kfp, KfpError, NotThere
from vila_ops.cluster.submit import config_of, note_kfp_run, read_cluster
from vila_ops.run_index import RunRow
from vila_ops.runs import load_view
from vila_ops.view import RunView

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PATIENCE = Patience(connect_s=3, read_s=10, tries=2, first_wait_s=0.2)
"""For a look in passing: a cluster that is out of reach must not keep anyone waiting."""
STOP_SECONDS = 180.0
POLL_SECONDS = 1.0
FOLLOW_SECONDS = 5.0
_BY_RECORD = "by the record alone"
_TRAINJOBS = "trainer.kubeflow.org/v1alpha1"


@dataclass(frozen=True)
class Standing:
    """How a run on a cluster stands. `note` says what is to be known about that; mostly nothing."""

    status: str
    note: str = ""


def standing(store: Store, run_id: str, patience: Patience = PATIENCE) -> Standing:
    """Return how a run stands, asking KFP unless its end is recorded; record its end."""
    loaded = record.RunRecord.load(store, run_id)
    about = read_cluster(store, run_id)
    if loaded.end is not None or about is None:
        return Standing(loaded.status)
    try:
        kfp = Kfp.connect(config_of(about), patience)
        about = _found(store, run_id, about, kfp)
        if about["kfp"]["run_id"] is None:
            return Standing(
                "interrupted",
                f"it never reached Kubeflow Pipelines; submit it with: vila resume {run_id}",
            )
        state, error = kfp.state(about["kfp"]["run_id"])
    except NotThere:
        return _deleted(store, loaded, about)
    except (KfpError, UserError) as problem:
        return Standing(loaded.status, _unknown(loaded, problem))
    if state in TERMINAL:
        return Standing(settle(store, run_id, about, TERMINAL[state], error))
    waiting = not any(
        attempts and not loaded.earlier(attempts[-1]) for attempts in loaded.tasks.values()
    )
    return Standing("running", "no task has begun yet" if waiting else "")


def current_view(store: Store, run_id: str, patience: Patience = PATIENCE) -> tuple[RunView, str]:
    """Return a run as people see it, and a note on how far that is known ("" if it is)."""
    view = load_view(store, run_id)
    if view.runner != "cluster":
        return view, ""
    known = standing(store, run_id, patience)
    view = load_view(store, run_id)
    if known.status != view.status:
        view = dataclasses.replace(view, status=known.status)
    return view, known.note


def current_rows(store: Store, rows: Sequence[RunRow]) -> Sequence[RunRow]:
    """Return the rows of a list as the runs stand now.

    A cluster that can't be asked is asked about one run only: the others stay as recorded.
    """
    found = []
    silent: set[str] = set()
    for row in rows:
        about = read_cluster(store, row.run_id) if row.runner == "cluster" else None
        if about is not None and about["cluster"] not in silent and row.status != "succeeded":
            known = standing(store, row.run_id)
            silent |= {about["cluster"]} if known.note.startswith(_BY_RECORD) else set()
            row = dataclasses.replace(row, status=known.status)
        found.append(row)
    return found


class Watched:
    """Reads a run again and again, asking KFP only now and then; as `load_view` otherwise."""

    def __init__(self) -> None:
        self._asked = -FOLLOW_SECONDS
        self._status = "running"

    def __call__(self, store: Store, run_id: str) -> RunView:
        """Return the run as it stood when KFP was last asked, with its tasks as they are now."""
        if time.monotonic() - self._asked >= FOLLOW_SECONDS:
            self._status = standing(store, run_id).status
            self._asked = time.monotonic()
        return dataclasses.replace(load_view(store, run_id), status=self._status)


def settle(
    store: Store, run_id: str, about: Mapping[str, Any], status: str, error: str = ""
) -> str:
    """Record the end of a run that KFP has ended, and of attempts that could not do so; once.

    What was wrong on the cluster is kept beside it, as long as the cluster still tells.
    """
    findings = [] if status == "succeeded" else _causes(run_id, about)
    if findings:
        value = [finding.as_json() for finding in findings]
        store.write(f"runs/{run_id}/findings.json", dumps(value, indent=1).encode())
    _close_attempts(store, run_id, status, findings)
    loaded = record.RunRecord.load(store, run_id)
    message = None if status == "succeeded" else _why(loaded, findings, error)
    now_known = read_cluster(store, run_id) or {}
    if now_known.get("kfp", {}).get("run_id") != about["kfp"]["run_id"]:
        return loaded.status  # resumed meanwhile: what has ended is not what runs now
    record.end_run(store, run_id, status, message)
    return status


def kept_findings(store: Store, run_id: str) -> list[Finding]:
    """Return what was found wrong with a run when its end was recorded."""
    try:
        kept = json.loads(store.read(f"runs/{run_id}/findings.json"))
    except NotFound:
        return []
    return [Finding(**each) for each in kept]


def _causes(run_id: str, about: Mapping[str, Any]) -> list[Finding]:
    """Return what the cluster says now; nothing where it can't be asked."""
    config = config_of(about)
    try:
        api = kubernetes_api(config, PATIENCE)
        return diagnose(api, config, run_id, about["kfp"]["run_id"] or "")
    except VilaError:
        return []


def stop(store: Store, run_id: str, say: Callable[[str], None] = lambda text: None) -> None:
    """End a run and everything that it started on the cluster, and wait until that is recorded.

    Raises UserError for one that is not running, KfpError where KFP can't be asked to, VilaError
    when it has not ended after three minutes.
    """
    about = read_cluster(store, run_id)
    known = standing(store, run_id, Patience())
    if about is None or known.status != "running":
        raise UserError(f"run {run_id} is not running, it is {known.status}. {known.note}".strip())
    config = config_of(about)
    kfp = Kfp.connect(config)
    about = _found(store, run_id, about, kfp)
    if about["kfp"]["run_id"] is not None:
        say("asked Kubeflow Pipelines to end it")
        kfp.terminate(about["kfp"]["run_id"])
        _wait_for_end(kfp, about["kfp"]["run_id"], run_id)
    try:
        _clean(kubernetes_api(config), config, run_id, about["kfp"]["run_id"])
    except (ClusterError, UserError) as error:
        say(f"TrainJobs and pods could not be looked for: {error}")
    settle(store, run_id, about, "stopped")


def follow(store: Store, run_id: str) -> str:
    """Wait until a run has ended, and return how. While KFP can't be asked, it has not."""
    while True:
        known = standing(store, run_id)
        silent = known.note.startswith(_BY_RECORD)
        if known.status == "succeeded" or (known.status != "running" and not silent):
            return known.status
        time.sleep(FOLLOW_SECONDS)


def _found(store: Store, run_id: str, about: dict[str, Any], kfp: Kfp) -> dict[str, Any]:
    """Return `about` with KFP's id of the run, looked up where its answer was lost."""
    if about["kfp"]["run_id"] is not None:
        return about
    experiment_id = kfp.experiment(about["kfp"]["experiment"])
    kfp_id = kfp.find_run(about["kfp"]["name"], experiment_id)
    if kfp_id is None:
        return about
    note_kfp_run(store, run_id, about, kfp_id)
    return read_cluster(store, run_id) or about


def _deleted(store: Store, loaded: record.RunRecord, about: Mapping[str, Any]) -> Standing:
    """KFP has no such run any more: it ends as far as its record tells."""
    status = loaded.status if loaded.status in ("succeeded", "failed") else "stopped"
    error = "the run was deleted in Kubeflow Pipelines"
    return Standing(settle(store, loaded.run_id, about, status, error))


def _unknown(loaded: record.RunRecord, problem: VilaError) -> str:
    heard = loaded.last_heard
    ago = ""
    if heard is not None:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(heard)).total_seconds()
        ago = f"; last heard of {heard[:19].replace('T', ' ')} UTC, {_ago(seconds)} ago"
    return f"{_BY_RECORD}{ago}: {problem}"


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _why(loaded: record.RunRecord, findings: list[Finding], error: str) -> str | None:
    """Return why a run failed: as a task told it, else as the cluster, else as KFP."""
    for name, _ in loaded.run.get("tasks", ()):
        attempts = loaded.tasks.get(name, ())
        finished = (attempts[-1].finished if attempts else None) or {}
        if finished.get("status") == "failed":
            return f"task '{name}': {(finished.get('error') or {}).get('message')}"
    for finding in findings:
        lead = f"task '{finding.task}': " if finding.task else ""
        return f"{lead}{finding.message} {finding.fix}"
    return error or None


def _close_attempts(store: Store, run_id: str, status: str, findings: list[Finding]) -> None:
    """Write how the attempts ended whose pods were killed before they could."""
    for name, attempts in record.RunRecord.load(store, run_id).tasks.items():
        if not attempts or attempts[-1].finished is not None:
            continue
        cause = next((each for each in findings if each.task == name), None)
        message = f"{cause.message} {cause.fix}" if cause else "its pod was ended before it could"
        code = 130 if status == "stopped" else 1
        record.close_attempt(
            store, run_id, name, after=attempts[-1].number - 1, exit_code=code, message=message
        )


def _wait_for_end(kfp: Kfp, kfp_id: str, run_id: str) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while kfp.state(kfp_id)[0] not in TERMINAL:
        if time.monotonic() > deadline:
            raise VilaError(
                f"{run_id} did not end within {STOP_SECONDS:.0f} s; it still may: vila show "
                f"{run_id}. Its pods: kubectl get pods -l {labels.KFP_RUN}={kfp_id}"
            )
        time.sleep(POLL_SECONDS)


def _clean(api: ApiClient, config: ClusterConfig, run_id: str, kfp_id: str | None) -> None:
    """Remove the TrainJobs of a run, and those of its pods that still are at work."""
    jobs = objects.address(_TRAINJOBS, "trainjobs", config.namespace)
    with contextlib.suppress(KindMissing):
        for job in objects.listed(api, jobs, selector=f"{labels.RUN}={run_id}"):
            objects.delete(api, f"{jobs}/{job['metadata']['name']}")
    if kfp_id is None:
        return
    pods = objects.address("v1", "pods", config.namespace)
    for pod in objects.listed(api, pods, selector=f"{labels.KFP_RUN}={kfp_id}"):
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            objects.delete(api, f"{pods}/{pod['metadata']['name']}")
