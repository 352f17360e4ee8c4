"""`run_stage`, the body of every component: record, cache, lock, stage, publish, exit code."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from components.runtime import cache
from components.runtime.cache import CacheEntry, TaskKey
from components.runtime.context import Context
from components.runtime.driver_watch import watch_driver
from components.runtime.failure import Failure, Stopped, TaskFailed
from components.runtime.heartbeat import Heartbeat
from components.runtime.inputs import fetch_inputs
from components.runtime.log import TaskLog
from components.runtime.mirror import mirror_of, settle
from components.runtime.nodes import NodesCall, fleet_of, run_on_nodes
from components.runtime.record import AttemptWriter, finished_attempt
from components.runtime.schedules import begin_triggered
from components.runtime.services import StageServices
from components.runtime.signals import ignore_signals, stoppable
from components.runtime.sinks import MetricsFile, Sink, WandbSink, finite
from components.runtime.usage import Usage
from components.runtime.workspace import locked, work_folder
from vila_core.config import Frozen, validate
from vila_core.jsonio import dumps
from vila_core.store import ArtifactRef, Store, open_store, publish
from vila_core.types import StageResult

_STAGES = "vila_core.stages"
_ELSEWHERE = {"register": "components.registry.stage"}


_Result = tuple[Mapping[str, ArtifactRef], Mapping[str, float | None]]


class Artifact(Protocol):
    """The part of `kfp.dsl.Artifact` that is used here."""

    uri: str
    metadata: dict[str, Any]

    @property
    def path(self) -> str:
        """The local place of `uri`."""
        ...


class Metrics(Protocol):
    """The part of `kfp.dsl.Metrics` that is used here."""

    def log_metric(self, metric: str, value: float) -> None:
        """Take one number."""
        ...


def stage_module(stage: str) -> str:
    """Return the module of a stage; a dotted name is a module already."""
    return stage if "." in stage else _ELSEWHERE.get(stage, f"{_STAGES}.{stage}")


def run_stage(
    *,
    stage: str,
    context: str,
    task: str,
    config: str,
    inputs: Mapping[str, Artifact],
    outputs: Mapping[str, Artifact],
    metrics: Metrics | None = None,
) -> None:
    """Run `stage` as task `task` of a run, or take its result from the cache.

    Sets `uri` and `metadata["sha256"]` of each output; where KFP itself drives the run, whose
    launcher copies what lies at `uri`, that stays as it is, and a pointer to the artifact is
    written there. On failure the process exits: 2 for a user's mistake, 130 when stopped, else 1.
    In the driver's own process (inline) it raises TaskFailed instead, and passes on
    KeyboardInterrupt and other non-Exceptions once recorded.
    """
    run = Context.parse(context)
    refs = {name: _ref(item) for name, item in inputs.items()}
    call = _Call(stage, task, run, config, refs, frozenset(outputs))
    with stoppable(not call.inline):
        try:
            if run.schedule is not None:
                call = replace(call, run=begin_triggered(run))
            outcome = _execute(call)
        except (Exception, Stopped) as error:  # not even the record could be written
            failure = Failure.of(error, None)
            outcome = _Outcome(failure.status, failure.exit_code, error=failure)
            print(f"error: {failure.kind}: {failure.message}", file=sys.stderr)
    if outcome.error is not None:
        if call.inline:
            raise TaskFailed(task, outcome.exit_code, outcome.error.message)
        sys.exit(outcome.exit_code)
    for name, artifact in outputs.items():
        _hand_over(artifact, outcome.outputs[name], pointer=run.driver_pid is None)
    for name, value in outcome.metrics.items():
        if metrics is not None and value is not None:
            metrics.log_metric(name, value)


def answer_from_cache(
    store: Store,
    run_id: str,
    task: str,
    stage: str,
    config: Frozen,
    inputs: Mapping[str, ArtifactRef],
) -> CacheEntry | None:
    """Return a verified earlier result and record the task as cached; None and no record if none.

    For a driver, which so spares the start of a process; the step asks again by the same key.
    """
    began = time.monotonic()
    digests = {name: ref.sha256 for name, ref in inputs.items()}
    key = cache.task_key(stage, stage_module(stage), config, digests)
    entry = cache.look_up(store, key.key)
    if entry is not None:
        writer = AttemptWriter(store, run_id, task, _started(stage, config, key))
        (writer.folder / "log.txt").write_text(f"{_cached_line(entry)}\n", encoding="utf-8")
        writer.finish(_finished(_cached(entry), began))
    return entry


def _ref(artifact: Artifact) -> ArtifactRef:
    """Return the artifact that is meant: it is known by its digest alone."""
    return ArtifactRef(artifact.metadata.get("uri", artifact.uri), artifact.metadata["sha256"])


def _hand_over(artifact: Artifact, ref: ArtifactRef, *, pointer: bool) -> None:
    artifact.metadata["sha256"] = ref.sha256
    if not pointer:
        artifact.uri = ref.uri
        return
    artifact.metadata["uri"] = ref.uri
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{dumps(ref.as_json())}\n", encoding="utf-8")


@dataclass(frozen=True)
class _Call:
    stage: str
    task: str
    run: Context
    config: str
    inputs: Mapping[str, ArtifactRef]
    outputs: frozenset[str]

    @property
    def inline(self) -> bool:
        return self.run.driver_pid == os.getpid() and not self.run.guarded


@dataclass(frozen=True)
class _Outcome:
    status: str  # succeeded | cached | failed | stopped
    exit_code: int = 0
    outputs: Mapping[str, ArtifactRef] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    error: Failure | None = None
    cached_from: Mapping[str, str] | None = None


def _execute(call: _Call) -> _Outcome:
    """Run one attempt and record it. Raises what can't be recorded, and non-Exceptions inline."""
    began = time.monotonic()
    store = open_store(call.run.store)
    try:
        resolved = _resolve(call)
    except Exception as error:
        resolved = error  # told in the attempt's own record, once there is one
    config, key = (None, None) if isinstance(resolved, Exception) else resolved
    if key is not None and (entry := _finished_here(call, store, key)):
        print(_cached_line(entry), flush=True)
        return _cached(entry)
    started = _started(call.stage, config, key)
    writer = AttemptWriter(store, call.run.run_id, call.task, started)
    log = TaskLog(writer.folder / "log.txt", capture=not call.inline)
    step = _Step(call, store, writer, log)
    interrupt: BaseException | None = None
    try:
        if isinstance(resolved, Exception):
            raise resolved
        outcome = step.run(*resolved)
    except BaseException as error:
        writer.free_reserve()
        failure = Failure.of(error, step.work)
        outcome = _Outcome(failure.status, failure.exit_code, error=failure)
        interrupt = None if isinstance(error, Exception | Stopped | SystemExit) else error
        if failure.traceback:
            log.raw(traceback.format_exc())
        log.line(f"error: {failure.kind}: {failure.message}")
    ignore_signals(not call.inline)  # what is left is short, and says how it ended
    step.close(outcome)
    writer.finish(_finished(outcome, began, step.usage))
    if interrupt is not None:
        raise interrupt
    return outcome


def _finished_here(call: _Call, store: Store, key: TaskKey) -> CacheEntry | None:
    """Return the result that this very task of this very run has already: a resumed run's.

    Where a driver runs the tasks it does not start such a one; KFP knows of no earlier run.
    """
    if call.run.driver_pid is not None:
        return None
    attempt = finished_attempt(store, call.run.run_id, call.task)
    if attempt is None or attempt.started["key"] != key.key:
        return None
    return cache.look_up(store, key.key)


def _resolve(call: _Call) -> tuple[Frozen, TaskKey]:
    name = stage_module(call.stage)
    module = importlib.import_module(name)
    config = validate(module.Config, json.loads(call.config), where=f"task {call.task}")
    digests = {name: ref.sha256 for name, ref in call.inputs.items()}
    return config, cache.task_key(call.stage, name, config, digests)


class _Step:
    """One attempt while it runs; it is also the stage's Reporter."""

    def __init__(self, call: _Call, store: Store, writer: AttemptWriter, log: TaskLog) -> None:
        self.work: Path | None = None
        self._call = call
        self._store = store
        self._writer = writer
        self._log = log
        self.usage = Usage(inline=call.inline)
        self._heartbeat = Heartbeat(writer, self.usage)
        self._sinks: list[Sink] = []
        driver = None if call.inline or call.run.guarded else call.run.driver_pid
        self._watch = None if driver is None else watch_driver(driver, self._orphan)
        log.line(f"{call.task}: attempt {writer.number}, run {call.run.run_id}")

    def run(self, config: Frozen, key: TaskKey) -> _Outcome:
        """Return the result for `key`, from the cache or by running the stage."""
        self.work = work_folder(self._store, key.key)
        with locked(self.work, self._say_waiting):
            entry = cache.look_up(self._store, key.key)
            if entry is not None:
                self.info(_cached_line(entry))
                return _cached(entry)
            outcome = self._compute(config, key, self.work)
            keep_every = getattr(getattr(config, "train", None), "keep_every", 0)
            settle(self._store, key.key, self.work, keep_every)
            shutil.rmtree(self.work, ignore_errors=True)
        return outcome

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        """Pass progress to the heartbeat."""
        self._heartbeat.progress(done, total, unit, finite(values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Pass one row to all sinks."""
        for sink in self._sinks:
            sink.log(step, values)

    def info(self, text: str) -> None:
        """Write one line to the log."""
        self._log.line(text)

    def attach(self, path: Path, name: str) -> None:
        """Copy a file into the attempt's record; one that can't be read or written is told."""
        target = self._writer.folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        except OSError as error:
            self.info(f"{name} is not in the record: {error}")

    def close(self, outcome: _Outcome) -> None:
        """Write everything out, the log last."""
        numbers = {name: value for name, value in outcome.metrics.items() if value is not None}
        for sink in self._sinks:
            sink.finish(numbers, outcome.exit_code)
        if self._watch is not None:
            self._watch.set()
        self.info(f"{self._call.task}: {outcome.status}")
        self._log.close()
        self._heartbeat.close()

    def _compute(self, config: Frozen, key: TaskKey, work: Path) -> _Outcome:
        call = self._call
        work.mkdir(parents=True, exist_ok=True)
        self._sinks.append(MetricsFile(self._writer.folder / "metrics.jsonl"))
        if getattr(getattr(config, "train", None), "nodes", 1) > 1:
            self._open_wandb(key)
            outputs, metrics = self._on_nodes(config, key, work)
        else:
            outputs, metrics = self._here(config, key, work)
        self._check_outputs(frozenset(outputs))
        entry = CacheEntry(key.key, outputs, metrics, call.run.run_id, call.task)
        cache.save(self._store, entry, key)
        return _Outcome("succeeded", outputs=outputs, metrics=metrics)

    def _on_nodes(self, config: Frozen, key: TaskKey, work: Path) -> _Result:
        """Have other machines do it, or processes that share as little."""
        call = self._call
        wanted = NodesCall(
            task=call.task,
            stage=call.stage,
            module=stage_module(call.stage),
            config=config.model_dump(mode="json"),
            inputs={name: ref.sha256 for name, ref in call.inputs.items()},
            key=key.key,
            code=key.parts["code"]["digest"],
        )
        place = call.run.nodes.get(call.task)
        fleet = fleet_of(place, wanted, call.run, self._writer.number, work, self.info)
        restarts = place.restarts if place is not None else 3
        done = run_on_nodes(
            self._store, self._writer.prefix, wanted, fleet, self, restarts=restarts
        )
        return done.outputs, done.metrics

    def _here(self, config: Frozen, key: TaskKey, work: Path) -> _Result:
        """Do it on this machine."""
        call = self._call
        digests = {name: ref.sha256 for name, ref in call.inputs.items()}
        config, folders = fetch_inputs(self._store, config, digests)
        run = importlib.import_module(stage_module(call.stage)).run
        extra: dict[str, Any] = {}
        wanted = inspect.signature(run).parameters
        if "mirror" in wanted:
            extra["mirror"] = mirror_of(self._store, key.key)
        if "services" in wanted:
            extra["services"] = StageServices(
                self._store, call.run.run_id, call.task, key, call.inputs
            )
        else:  # the platform's own stages train nothing: no seconds are spent on starting W&B
            self._open_wandb(key)
        result: StageResult = run(config, folders, work, self, **extra)
        self._check_outputs(frozenset(result.outputs))
        outputs = {
            name: publish(self._store, folder, move=True) for name, folder in result.outputs.items()
        }
        return outputs, finite(result.metrics)

    def _check_outputs(self, names: frozenset[str]) -> None:
        if names != self._call.outputs:
            raise RuntimeError(
                f"stage '{self._call.stage}' returned the outputs {sorted(names)}, "
                f"its component declares {sorted(self._call.outputs)}"
            )

    def _open_wandb(self, key: TaskKey) -> None:
        tracking = self._call.run.tracking
        if tracking.wandb == "disabled":
            return
        if find_spec("wandb") is None:
            self.info("W&B is not installed: the metrics are in metrics.jsonl only")
            return
        lineage = {**key.parts, "key": key.key, "code": key.parts["code"]["digest"]}
        self._sinks.append(
            WandbSink(
                tracking,
                run_id=self._call.run.run_id,
                task=self._call.task,
                config=lineage,
                folder=self._writer.folder,
                warn=self.info,
            )
        )

    def _say_waiting(self, pid: int) -> None:
        self.info(f"waiting: process {pid or '?'} is computing the same task; its result will do")

    def _orphan(self) -> None:
        message = f"the driver (process {self._call.run.driver_pid}) is gone"
        self._log.raw(f"error: DriverGone: {message}; continue with 'vila resume'\n")
        failure = Failure("stopped", 130, "DriverGone", message, False)
        outcome = _Outcome("stopped", 130, error=failure)
        self._writer.finish(_finished(outcome, None, self.usage))


def _started(stage: str, config: Frozen | None, key: TaskKey | None) -> dict[str, Any]:
    return {
        "stage": stage,
        "config": config and config.model_dump(mode="json"),
        "key": key.key if key else None,
        "key_parts": key.parts if key else None,
    }


def _finished(outcome: _Outcome, began: float | None, used: Usage | None = None) -> dict[str, Any]:
    if outcome.status == "cached":
        used = None
    error = outcome.error
    return {
        "status": outcome.status,
        "exit_code": outcome.exit_code,
        "duration_s": None if began is None else round(time.monotonic() - began, 3),
        "cpu_s": used and round(used.cpu_seconds(), 3),
        "peak_rss_bytes": used and used.peak_bytes(),
        "outputs": {name: ref.as_json() for name, ref in outcome.outputs.items()},
        "metrics": dict(outcome.metrics),
        "error": {"kind": error.kind, "message": error.message} if error else None,
        "cached_from": outcome.cached_from,
    }


def _cached(entry: CacheEntry) -> _Outcome:
    source = {"run_id": entry.run_id, "task": entry.task}
    return _Outcome("cached", 0, entry.outputs, entry.metrics, cached_from=source)


def _cached_line(entry: CacheEntry) -> str:
    return f"cached: the result of task {entry.task} of run {entry.run_id}, verified"
