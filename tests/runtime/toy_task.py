"""Runs one task like a component does: `python toy_task.py '<json>'`; prints its outputs."""

import json
import os
import resource
import sys
import tempfile
from typing import Any

from components.runtime import run_stage


class Artifact:
    def __init__(self, uri: str = "", sha256: str = "") -> None:
        self.uri = uri
        self.path = f"{tempfile.mkdtemp()}/{uri or 'output'}"
        self.metadata: dict[str, Any] = {"sha256": sha256} if sha256 else {}


class Metrics:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log_metric(self, metric: str, value: float) -> None:
        self.values[metric] = value


def main(call: dict[str, Any]) -> None:
    if "file_limit" in call:
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["file_limit"], call["file_limit"]))
    result, metrics = Artifact(), Metrics()
    run_stage(
        stage=call.get("stage", "tests.runtime.toy_stage"),
        context=json.dumps(call["context"]),
        task=call.get("task", "toy"),
        config=json.dumps(call.get("config", {})),
        inputs={name: Artifact(*ref) for name, ref in call.get("inputs", {}).items()},
        outputs={"result": result},
        metrics=metrics,
    )
    uri = result.metadata.get("uri", result.uri)  # a pointer, where no driver waits
    print(json.dumps([uri, result.metadata["sha256"], metrics.values]))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given["context"].get("driver_pid") == "parent":
        given["context"]["driver_pid"] = os.getppid()
    main(given)
