"""The driver: claims a run, runs its graph, and writes how it ended.

Everything it needs is in the run's record, so a run is started, put in the background and resumed
by the same function.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from components.runtime import (
    Context,
    TaskFailed,
    answer_from_cache,
    look_up,
    record,
    stage_module,
    task_key,
)
from vila_core.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, VilaError, require
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_ops.driver.container import Containers
from vila_ops.driver.graph import Task
from vila_ops.driver.inline import InlineTask
from vila_ops.driver.local import SubprocessTask
from vila_ops.driver.schedule import Outputs, Running, TaskError, run_graph
from vila_ops.recipes import Recipe, config_json, resolve
from vila_ops.runs import kept_graph

EXIT_CODES = {"succeeded": EXIT_OK, "failed": EXIT_FAILED, "stopped": EXIT_INTERRUPTED}
MAX_PARALLEL = {"subprocess": 2, "container": 2, "inline": 1}
SPAWN_SECONDS = 30.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def drive(store: Store, run_id: str) -> str:
    """Run what a run's record asks for, in this process; return succeeded, failed or stopped.

    What is in the cache is taken from there; a task that was interrupted continues in its work
    folder. Raises UserError when the run has a live driver already.
    """
    run = record.RunRecord.load(store, run_id).run
    graph = kept_graph(store, run_id)
    recipe = resolve(run["recipe"], run["config"], where=f"run {run_id}", graph=graph)
    record.begin_driver(store, run_id)
    driver = _Driver(store, run_id, recipe, run["runner"], run.get("images") or {})
    status, error = "failed", None
    try:
        with driver.signals():
            driver.run()
        status = "succeeded"
    except (TaskError, TaskFailed) as failure:
        error = driver.explain(failure)
    except KeyboardInterrupt:
        status = "stopped"
    except VilaError as failure:  # the store is gone, a package is missing
        error = str(failure)
        raise
    except BaseException as failure:
        error = f"driver: {type(failure).__name__}: {failure}"
        raise
    finally:
        driver.close()
        record.end_run(store, run_id, status, error)
    return status


def spawn(store: Store, run_id: str) -> None:
    """Start a driver in a session of its own, and wait until it has claimed the run.

    Raises VilaError with what it printed when it ends before that.
    """
    command = [sys.executable, "-m", "vila_ops.driver", "--store", store.uri, run_id]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        deadline = time.monotonic() + SPAWN_SECONDS
        while time.monotonic() < deadline:
            code = process.poll()
            found = record.RunRecord.load(store, run_id)
            if found.driver is not None and found.driver["pid"] == process.pid:
                return
            if code is not None:
                output.seek(0)
                said = output.read().decode(errors="replace").strip()
                raise VilaError(said.removeprefix("error: ") or f"the driver ended with {code}")
            time.sleep(0.05)
    raise VilaError(f"the driver of {run_id} did not start within {SPAWN_SECONDS:.0f} s")


class _Driver:
    """One driver session: how a task is looked up, started and seen off."""

    def __init__(
        self, store: Store, run_id: str, recipe: Recipe, runner: str, images: Mapping[str, str]
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._recipe = recipe
        self._runner = runner
        self._images = images
        self._containers: Containers | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="vila-"))
        self._earlier: dict[str, int] = {}  # attempts before ours, by task
        self._stopping = False
        context = Context(
            store=store.uri,
            run_id=run_id,
            driver_pid=os.getpid(),
            guarded=runner == "container",
            recipe=recipe.name,
            tracking=recipe.tracking,
        )
        self._pipeline_arguments = {
            "context": dumps(context.model_dump(mode="json")),
            **{key: config_json(config) for key, config in recipe.configs.items()},
        }

    def run(self) -> None:
        """Run the graph."""
        run_graph(
            self._recipe.graph,
            look_up=self._look_up,
            start=self._start,
            ended=self._ended,
            check=self._check,
            max_parallel=MAX_PARALLEL[self._runner],
        )

    def close(self) -> None:
        """Remove the scratch folder."""
        if self._containers is not None:
            self._containers.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn Ctrl-C, SIGTERM and SIGHUP into one orderly stop; a second one changes nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield  # a notebook's or a server's thread: whoever started it stops it
            return
        before = {number: signal.signal(number, self._interrupted) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def explain(self, failure: TaskError | TaskFailed) -> str:
        """Return the message of a failed task as its record has it."""
        attempts = record.RunRecord.load(self._store, self._run_id).tasks.get(failure.task, ())
        finished = (attempts[-1].finished if attempts else None) or {}
        message = (finished.get("error") or {}).get("message")
        return f"task '{failure.task}': {message or failure}"

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        first, self._stopping = not self._stopping, True
        if first and self._runner == "inline":
            raise KeyboardInterrupt  # the stage runs in this very thread

    def _check(self) -> None:
        if self._stopping:
            raise KeyboardInterrupt

    def _look_up(self, task: Task, inputs: Outputs) -> Outputs | None:
        config = self._recipe.configs[task.config_key]
        if self._finished_here(task.name):
            # Resumed: a result of this very run stays as it is recorded.
            digests = {name: ref.sha256 for name, ref in inputs.items()}
            key = task_key(task.stage, stage_module(task.stage), config, digests).key
            attempt = record.RunRecord.load(self._store, self._run_id).tasks[task.name][-1]
            if attempt.started["key"] == key and (entry := look_up(self._store, key)):
                return entry.outputs
        entry = answer_from_cache(self._store, self._run_id, task.name, task.stage, config, inputs)
        return None if entry is None else entry.outputs

    def _finished_here(self, name: str) -> bool:
        if not record.last_attempt(self._store, self._run_id, name):
            return False
        loaded = record.RunRecord.load(self._store, self._run_id)
        return loaded.task_status(name) in ("succeeded", "cached")

    def _start(self, task: Task, inputs: Outputs) -> Running:
        require("kfp", extra="pipeline", why="run the tasks of a pipeline")
        arguments: Mapping[str, Any] = {
            name: parameter.value(self._pipeline_arguments)
            for name, parameter in task.parameters.items()
        }
        self._earlier[task.name] = record.last_attempt(self._store, self._run_id, task.name)
        scratch = self._scratch / task.name
        if self._runner == "inline":
            return InlineTask(task, arguments, inputs, scratch)
        if self._runner == "container":
            config = self._recipe.configs[task.config_key]
            return self._rooms().start(task, config, arguments, inputs, scratch)
        return SubprocessTask(self._recipe.graph, task, arguments, inputs, scratch)

    def _rooms(self) -> Containers:
        """Look for the engine and the images when the first task needs them."""
        if self._containers is None:
            self._containers = Containers(
                self._store, self._run_id, self._recipe.graph, self._images, self._scratch
            )
            told = {
                "engine": f"{self._containers.engine.kind} {self._containers.engine.version}",
                "images": self._containers.images.as_json(),
            }
            self._store.write(f"runs/{self._run_id}/containers.json", dumps(told).encode())
        return self._containers

    def _ended(self, task: Task, process: Running, code: int) -> None:
        """Record the end of a process that could not do so itself."""
        if code:
            record.close_attempt(
                self._store,
                self._run_id,
                task.name,
                after=self._earlier[task.name],
                exit_code=code,
                message=process.reason() or _why_it_ended(code),
                log=process.last_lines(),
            )


def _why_it_ended(code: int) -> str:
    if code == 128 + signal.SIGKILL:
        return (
            "the process was killed by signal 9 (SIGKILL); often the machine ran out of memory: "
            "see 'vila doctor', then 'vila resume' the run."
        )
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = "unknown"
        return f"the process was ended by signal {code - 128} ({name})."
    return f"the process ended with exit code {code} before it could say why; see the log."
