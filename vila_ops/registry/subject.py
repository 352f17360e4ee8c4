"""What a person wants promoted: a run's model, that of one of its tasks, or a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.registry import Registry, Version
from components.registry.gates.candidate import read_metrics, results_of
from components.runtime.record import Attempt, RunRecord
from vila_core.errors import NotFound, UserError
from vila_core.jsonio import digest
from vila_core.store import ArtifactRef, Store, read_file, ref_of
from vila_ops.ask import MODEL_TASKS
from vila_ops.runs import find_run, find_task, load_view
from vila_ops.view import RunView

SUMMARY = "summary.json"
FINISHED = ("succeeded", "cached")


@dataclass(frozen=True)
class Subject:
    """A model with its evaluation. `results` and `baseline` are "" where the run has none.

    `register` is the config of the run's own task that registers: the model's name and the gates.
    """

    what: str
    run_id: str
    artifact: ArtifactRef
    results: str
    baseline: str
    version: Version | None = None
    register: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, str]:
        """Artifacts (sha256) by the names that a registering task gives them."""
        found = {"model": self.artifact.sha256, "results": self.results, "baseline": self.baseline}
        return {name: sha256 for name, sha256 in found.items() if sha256}

    @property
    def key(self) -> str:
        """What a version of it goes by in its run, where no task registered it."""
        return digest(["promoted", self.inputs])

    def registered_as(self, registry: Registry, model: str) -> Version | None:
        """Return the newest version of `model` that is this one already."""
        if self.version is not None and self.version.model == model:
            return self.version
        same = [
            one
            for one in registry.versions(model)
            if one.artifact.sha256 == self.artifact.sha256 and results_of(one) == self.results
        ]
        return same[-1] if same else None


def find_subject(store: Store, what: str) -> Subject:
    """Return what `RUN`, `RUN:TASK`, `MODEL@VERSION` or `MODEL@ALIAS` means.

    Of a run, that is what its registering task takes, or else the model of its last training that
    has one. Raises UserError when there is no such thing, or no model in it.
    """
    if "@" in what:
        return _of_version(store, what)
    text, _, task = what.partition(":")
    view = load_view(store, find_run(store, text))
    record = RunRecord.load(store, view.run_id)
    registering = _registering(record, view)
    parts = registering.started["key_parts"] if registering else {}
    inputs = parts.get("inputs") or {}
    if task:
        model = _model_of_task(view, record, task)
    elif inputs.get("model"):
        model = inputs["model"]
    else:
        model = _model_of_run(view)
    own = not task or model == inputs.get("model")
    return Subject(
        what=view.run_id + (f":{task}" if task else ""),
        run_id=view.run_id,
        artifact=ref_of(store, model),
        results=inputs["results"] if own and inputs.get("results") else _results(record, model),
        baseline=inputs.get("baseline", ""),
        register=registering.config if registering else view.config.get("register") or {},
    )


def baseline_of(version: Version) -> str:
    """Return the artifact (sha256) of the evaluation that a version was held against."""
    registered = version.lineage.get("register") or {}
    return version.baseline or (registered.get("inputs") or {}).get("baseline", "")


def metrics_in(store: Store, sha256: str) -> dict[str, float]:
    """Return the metrics of an evaluation; none where there is none or it was removed.

    Raises UserError for content that is no evaluation.
    """
    if not sha256:
        return {}
    ref = ref_of(store, sha256)
    try:
        return read_metrics(read_file(store, ref, SUMMARY), f"{ref.uri}/{SUMMARY}")
    except NotFound:
        return {}


def _of_version(store: Store, name: str) -> Subject:
    version = Registry(store).resolve(name)
    register: Mapping[str, Any] = {}
    try:
        view = load_view(store, version.run_id)
        found = _registering(RunRecord.load(store, version.run_id), view)
        register = found.config if found else view.config.get("register") or {}
    except NotFound:
        pass  # the run was removed; the version is all there is
    return Subject(
        what=version.name,
        run_id=version.run_id,
        artifact=version.artifact,
        results=results_of(version),
        baseline=baseline_of(version),
        version=version,
        register=register,
    )


def _registering(record: RunRecord, view: RunView) -> Attempt | None:
    """Return the latest attempt of the run's task that registers, if it came so far."""
    names = [task.name for task in view.tasks if task.stage == "register"]
    attempts = [attempt for name in names for attempt in record.tasks.get(name, ())]
    return next((one for one in reversed(attempts) if one.started.get("key_parts")), None)


def _model_of_task(view: RunView, record: RunRecord, name: str) -> str:
    """Return the model that a task made, or the one that it evaluated."""
    task = find_task(view, name)
    made = [artifact["sha256"] for artifact in task.artifacts if artifact["name"] == "model"]
    if made:
        return made[0]
    attempts = [one for one in record.tasks.get(task.name, ()) if one.started.get("key_parts")]
    taken = attempts[-1].started["key_parts"]["inputs"].get("model") if attempts else None
    if taken:
        return taken
    raise UserError(
        f"task {task.name} of run {view.run_id} has no model; fix: name one that trains, such as "
        f"{view.run_id}:sft"
    )


def _model_of_run(view: RunView) -> str:
    for task in (view.task(wanted) for wanted in MODEL_TASKS):
        for artifact in task.artifacts if task else ():
            if artifact["name"] == "model":
                return artifact["sha256"]
    raise UserError(f"run {view.run_id} has no model yet; see: vila show {view.run_id}")


def _results(record: RunRecord, model: str) -> str:
    """Return the latest results of the run about a model; "" where it was not evaluated."""
    found = ""
    for attempts in record.tasks.values():
        for attempt in attempts:
            finished = attempt.finished or {}
            outputs = finished.get("outputs") or {}
            inputs = (attempt.started.get("key_parts") or {}).get("inputs") or {}
            if (
                finished.get("status") in FINISHED
                and "results" in outputs
                and inputs.get("model") == model
            ):
                found = outputs["results"]["sha256"]
    return found
