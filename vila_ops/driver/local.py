"""One task as a subprocess, by the executor of kfp.local, in a process group of its own.

kfp.local can execute one step but is no run service: it prints the step's output, forgets its exit
code, orphans it on Ctrl-C and runs independent tasks one by one. So its pieces are used here (the
executor input, placeholders, command and outputs of a step) around a process that we own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.store import ArtifactRef
from vila_ops.driver.graph import Graph, Task

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def task_environment() -> dict[str, str]:
    """Return the variables of a local task; what the user has set already wins."""
    defaults = dict(ENVIRONMENT)
    if not Path("/dev/nvidiactl").exists():
        defaults["DS_ACCELERATOR"] = "cpu"  # DeepSpeed's own search for a device is slow and loud
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


class SubprocessTask:
    """A running task. `poll` until not None, then `outputs`; `stop` ends it and all below it."""

    def __init__(
        self,
        graph: Graph,
        task: Task,
        arguments: Mapping[str, Any],
        inputs: Mapping[str, ArtifactRef],
        scratch: Path,
    ) -> None:
        self.task = task
        self._scratch = scratch
        # This interpreter, in the shell's place: so signals and exit codes are those of the step.
        python = f"exec {shlex.quote(sys.executable)}"
        self._step = prepare_step(graph, task, arguments, inputs, scratch, python)
        self.output_file = scratch / "output.txt"
        environment = {
            **os.environ,
            **task_environment(),
            "TMPDIR": str(scratch),  # kfp leaves a folder there per step; it goes with the scratch
            "PYTHONUNBUFFERED": "1",
        }
        with self.output_file.open("wb") as output:
            self._process = subprocess.Popen(
                self._step.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which ends the group
            )

    @property
    def pid(self) -> int:
        """The process id, which is the id of the group too."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code as a shell would say it (128 + signal), or None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def outputs(self) -> dict[str, ArtifactRef]:
        """Return the artifacts of a task that succeeded."""
        return self._step.outputs()

    def last_lines(self, count: int = 20) -> str:
        """Return the end of what the process printed: all there is when it died before logging."""
        return last_lines_of(self.output_file, count)

    def reason(self) -> str:
        """Return "": an exit code says all there is to know."""
        return ""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the task's whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, how)

    def clean(self) -> None:
        """End what is left of the process group, and remove the scratch folder."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self._scratch, ignore_errors=True)


def last_lines_of(output: Path, count: int) -> str:
    """Return the last lines of a file; none of a file that there is not."""
    with contextlib.suppress(FileNotFoundError):
        text = output.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-count:])
    return ""


@dataclass(frozen=True)
class Step:
    """A task's command with its placeholders filled, and where its outputs will be written down."""

    task: Task
    command: list[str]
    component: Any  # ComponentSpec, a protobuf message
    executor_input: Any  # ExecutorInput

    def outputs(self) -> dict[str, ArtifactRef]:
        """Return the artifacts of a step that succeeded, as KFP's executor wrote them down."""
        from kfp.local import executor_output_utils

        found = executor_output_utils.get_outputs_for_task(
            executor_input=self.executor_input, component_spec=self.component
        )
        return {
            name: ArtifactRef(uri=found[name].uri, sha256=found[name].metadata["sha256"])
            for name in self.task.outputs
        }


def prepare_step(
    graph: Graph,
    task: Task,
    arguments: Mapping[str, Any],
    inputs: Mapping[str, ArtifactRef],
    scratch: Path,
    python: str,
) -> Step:
    """Return the step of a task by kfp.local's own functions; `python` stands for its python3."""
    from google.protobuf import json_format
    from kfp import dsl
    from kfp.local import executor_input_utils, placeholder_utils
    from kfp.pipeline_spec import pipeline_spec_pb2

    scratch.mkdir(parents=True, exist_ok=True)
    generated: Any = pipeline_spec_pb2  # its classes are made at run time
    component = json_format.ParseDict(
        graph.spec["components"][task.component], generated.ComponentSpec()
    )
    artifacts = {
        name: dsl.Artifact(name=name, uri=ref.uri, metadata={"sha256": ref.sha256})
        for name, ref in inputs.items()
    }
    executor_input = executor_input_utils.construct_executor_input(
        component_spec=component,
        arguments={**arguments, **artifacts},
        task_root=str(scratch),
        block_input_artifact=False,
    )
    container = graph.spec["deploymentSpec"]["executors"][task.executor]["container"]
    *shell, source = container["command"]
    # (kfp's own replace_python_executable would also rewrite the arguments, configs among them.)
    shell = [part.replace("python3", python) for part in shell]
    command = placeholder_utils.replace_placeholders(
        full_command=[*shell, source, *container["args"]],
        executor_input_dict=executor_input_utils.executor_input_to_dict(executor_input, component),
        pipeline_resource_name=graph.name,
        task_resource_name=task.name,
        pipeline_root=str(scratch),
        unique_pipeline_id=graph.name,
    )
    return Step(task, command, component, executor_input)
