"""One task in this process: the component's Python function, called with KFP's artifact objects.

For debuggers, notebooks and small recipes: no process start, no import twice, breakpoints work.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.runtime import TaskFailed
from vila_core.errors import EXIT_INTERRUPTED
from vila_core.store import ArtifactRef
from vila_ops.driver.graph import Task
from vila_ops.driver.local import task_environment


class InlineTask:
    """A task that runs when it is first polled, to its end."""

    def __init__(
        self,
        task: Task,
        arguments: Mapping[str, Any],
        inputs: Mapping[str, ArtifactRef],
        scratch: Path,
    ) -> None:
        self._task = task
        self._arguments = arguments
        self._inputs = inputs
        self._scratch = scratch
        self._outputs: dict[str, ArtifactRef] = {}
        self._code: int | None = None
        self._message = ""

    def poll(self) -> int:
        """Run the task the first time; return its exit code. Passes KeyboardInterrupt on."""
        if self._code is None:
            self._code = EXIT_INTERRUPTED  # unless it comes to an end
            try:
                self._outputs = self._run()
                self._code = 0
            except TaskFailed as failure:
                self._code, self._message = failure.exit_code, failure.message
        return self._code

    def outputs(self) -> Mapping[str, ArtifactRef]:
        """Return the artifacts."""
        return self._outputs

    def last_lines(self) -> str:
        """Return why it failed."""
        return self._message

    def reason(self) -> str:
        """Return "": the task has told all in its record."""
        return ""

    def stop(self, how: signal.Signals) -> None:
        """Nothing runs between polls, so there is nothing to stop."""

    def clean(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _run(self) -> dict[str, ArtifactRef]:
        from kfp import dsl

        os.environ.update(task_environment())  # before the stage imports torch
        stage = self._task.stage
        component = getattr(importlib.import_module(f"components.{stage}"), stage)
        given = {
            name: dsl.Artifact(name=name, uri=ref.uri, metadata={"sha256": ref.sha256})
            for name, ref in self._inputs.items()
        }
        self._scratch.mkdir(parents=True, exist_ok=True)
        made = {
            name: dsl.Artifact(name=name, uri=str(self._scratch / name))
            for name in self._task.outputs
        }
        metrics = dsl.Metrics(name="metrics", uri=str(self._scratch / "metrics"))
        component.python_func(**self._arguments, **given, **made, metrics=metrics)
        return {
            name: ArtifactRef(uri=artifact.uri, sha256=artifact.metadata["sha256"])
            for name, artifact in made.items()
        }
