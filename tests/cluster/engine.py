"""Executes the runs that the test API server was given, as KFP's driver and launcher would.

Each task is a process with the command, parameters and variables that the submitted documents give
it, and nothing of the submitting process. Between tasks only what KFP hands on is handed on: the
metadata of an artifact, and the files at its path, which the launcher copies to the bucket of KFP.
Pods are objects of the server, with the labels that the documents ask for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.api_server import ApiServer
from tests.api_server.kfp import TERMINAL

ROOT = Path(__file__).parents[2]
IMAGE = Path(__file__).parent / "pod_image"
NAMESPACE = "kubeflow"


class Engine:
    """Works on every run of the server, in a thread, one task after the other."""

    def __init__(self, server: ApiServer, folder: Path, grace_s: float = 10.0) -> None:
        self.server = server
        self.folder = folder  # the pods' volumes, and KFP's bucket
        self.grace_s = grace_s
        self.started: list[dict[str, Any]] = []  # what each pod was given
        self.retry_wait_s = 0.05  # in place of the documents' seconds
        self._ended = threading.Event()
        self._seen: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._watch = threading.Thread(target=self._work, daemon=True)
        self._watch.start()

    def close(self) -> None:
        self._ended.set()
        self._watch.join()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._ended.wait(0.05):
            for run in self.server.kfp.runs():
                if run["run_id"] not in self._seen:
                    self._seen.add(run["run_id"])
                    thread = threading.Thread(target=self._run, args=(run,), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _run(self, run: dict[str, Any]) -> None:
        state = "FAILED"
        with contextlib.suppress(_Cancelled):
            self.server.kfp.set_state(run["run_id"], "RUNNING")
            state = "SUCCEEDED" if _Run(self, run).execute() else "FAILED"
        if self._state(run["run_id"]) == "CANCELING":
            state = "CANCELED"
        if self._state(run["run_id"]) not in TERMINAL:
            self.server.kfp.set_state(run["run_id"], state)

    def _state(self, run_id: str) -> str:
        with self.server.kfp.lock:
            return self.server.kfp.objects["runs"].get(run_id, {}).get("state", "CANCELED")

    def cancelled(self, run_id: str) -> bool:
        return self._ended.is_set() or self._state(run_id) in ("CANCELING", "CANCELED")


class _Cancelled(Exception):
    pass


class _Run:
    def __init__(self, engine: Engine, run: dict[str, Any]) -> None:
        self.engine, self.run, self.id = engine, run, run["run_id"]
        self.spec, platforms = engine.server.kfp.documents(self.id)
        self.kubernetes = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.given = (run.get("runtime_config") or {}).get("parameters") or {}
        self.bucket = engine.folder / "bucket"
        self.outputs: dict[str, dict[str, Any]] = {}

    def execute(self) -> bool:
        tasks = dict(self.spec["root"]["dag"]["tasks"])
        while tasks:
            ready = [key for key, node in tasks.items() if self._ready(node)]
            if not ready:
                return False
            key = ready[0]
            node = tasks.pop(key)
            tries = 1 + int(node.get("retryPolicy", {}).get("maxRetryCount", 0))
            for attempt in range(tries):
                if attempt:
                    time.sleep(self.engine.retry_wait_s)
                if self._pod(key, node, attempt):
                    break
            else:
                return False
        return True

    def _ready(self, node: Mapping[str, Any]) -> bool:
        return all(name in self.outputs for name in node.get("dependentTasks", ()))

    def _pod(self, key: str, node: Mapping[str, Any], attempt: int) -> bool:
        component = self.spec["components"][node["componentRef"]["name"]]
        label = component["executorLabel"]
        container = self.spec["deploymentSpec"]["executors"][label]["container"]
        config = self.kubernetes[label]
        name = f"{self.spec['pipelineInfo']['name']}-{self.id[:5]}-{key}-{attempt}"
        pod = self._object(name, container, config)
        env = self._environment(pod, container, config)
        root = self.engine.folder / "pods" / name
        root.mkdir(parents=True)
        executor_input = self._input(key, node, component, root)
        for artifact in _artifacts(executor_input["inputs"]):
            self._download(artifact, root)
        for artifact in _artifacts(executor_input["outputs"]):
            (root / _path(artifact)).parent.mkdir(parents=True, exist_ok=True)
        command = [
            part.replace("{{$}}", json.dumps(executor_input))
            for part in [*container["command"], *container.get("args", [])]
        ]
        given = {"task": key, "env": env, "container": container, "kubernetes": config, "pod": name}
        self.engine.started.append(given)
        code = self._process(command, {**env, **_image(root)}, pod)
        if code:
            return False
        self._upload(key, executor_input, root)
        return True

    def _object(
        self, name: str, container: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        metadata = config.get("podMetadata", {})
        labels = {**metadata.get("labels", {}), "pipeline/runid": self.id}
        return self.engine.server.kube.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": labels,
                    "annotations": dict(metadata.get("annotations", {})),
                },
                "spec": {
                    "containers": [{"name": "main", "image": container["image"]}],
                    "serviceAccountName": self.run.get("service_account"),
                    "nodeName": "node-1",
                },
                "status": {"phase": "Running"},
            }
        )

    def _environment(
        self, pod: Mapping[str, Any], container: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, str]:
        env = {each["name"]: each["value"] for each in container.get("env", ())}
        kinds = (("Secret", "secret", "secretAsEnv"), ("ConfigMap", "configMap", "configMapAsEnv"))
        for kind, prefix, field in kinds:
            for source in config.get(field, ()):
                name = source[f"{prefix}Name"]
                held = self.engine.server.kube.get("v1", kind, NAMESPACE, name)
                assert held is not None, f"{kind} {name} is not there"
                values = held.get("stringData", {}) | held.get("data", {})
                for pair in source["keyToEnv"]:
                    env[pair["envVar"]] = values[pair[f"{prefix}Key"]]
        meta = pod["metadata"]
        fields = {
            "metadata.name": meta["name"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": pod["spec"]["nodeName"],
            **{f"metadata.labels['{key}']": value for key, value in meta["labels"].items()},
        }
        for each in config.get("fieldPathAsEnv", ()):
            env[each["name"]] = fields[each["fieldPath"]]
        return env

    def _input(
        self, key: str, node: Mapping[str, Any], component: Mapping[str, Any], root: Path
    ) -> dict[str, Any]:
        parameters = {}
        for name, value in node.get("inputs", {}).get("parameters", {}).items():
            source = value.get("componentInputParameter")
            parameters[name] = self.given[source] if source else value["runtimeValue"]["constant"]
        artifacts = {}
        for name, value in node.get("inputs", {}).get("artifacts", {}).items():
            source = value["taskOutputArtifact"]
            made = self.outputs[source["producerTask"]][source["outputArtifactKey"]]
            artifacts[name] = {"artifacts": [{**made, "name": name}]}
        base = (
            f"minio://mlpipeline/v2/artifacts/{self.spec['pipelineInfo']['name']}/{self.id}/{key}"
        )
        outputs = {
            name: {
                "artifacts": [
                    {
                        "name": name,
                        "type": dict(value["artifactType"]),
                        "uri": f"{base}/{uuid.uuid4()}/{name}",
                        "metadata": {},
                    }
                ]
            }
            for name, value in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        }
        return {
            "inputs": {"parameterValues": parameters, "artifacts": artifacts},
            "outputs": {"artifacts": outputs, "outputFile": str(root / "output_metadata.json")},
        }

    def _download(self, artifact: Mapping[str, Any], root: Path) -> None:
        source = self.bucket / _path(artifact)
        if source.exists():  # an artifact without files is none to the launcher
            target = root / _path(artifact)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)

    def _upload(self, key: str, executor_input: Mapping[str, Any], root: Path) -> None:
        told = Path(executor_input["outputs"]["outputFile"])
        output = json.loads(told.read_text()) if told.exists() else {}
        self.outputs[key] = {}
        for artifact in _artifacts(executor_input["outputs"]):
            name = artifact["name"]
            for said in output.get("artifacts", {}).get(name, {}).get("artifacts", ())[:1]:
                artifact["uri"] = said.get("uri") or artifact["uri"]
                artifact["metadata"] = {**artifact["metadata"], **said.get("metadata", {})}
            assert artifact["uri"].startswith("minio://mlpipeline/"), "not in KFP's own bucket"
            source = root / _path(artifact)
            if source.exists():
                target = self.bucket / _path(artifact)
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
            self.outputs[key][name] = artifact

    def _process(self, command: list[str], env: dict[str, str], pod: Mapping[str, Any]) -> int:
        name = pod["metadata"]["name"]
        kube = self.engine.server.kube
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=self._read, args=(process, name), daemon=True)
        reader.start()
        deadline = None
        while process.poll() is None:
            time.sleep(0.03)
            gone = kube.get("v1", "Pod", NAMESPACE, name) is None
            if deadline is None and (gone or self.engine.cancelled(self.id)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                deadline = time.monotonic() + self.engine.grace_s
            if deadline is not None and time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        reader.join()
        if kube.get("v1", "Pod", NAMESPACE, name) is not None:
            phase = "Failed" if process.returncode else "Succeeded"
            kube.set_status("v1", "Pod", NAMESPACE, name, {"phase": phase})
        if self.engine.cancelled(self.id):
            raise _Cancelled
        return process.returncode

    def _read(self, process: subprocess.Popen[str], pod: str) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.engine.server.kube.write_log(NAMESPACE, pod, line.rstrip("\n"))


def _artifacts(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for listed in part["artifacts"].values():
        yield from listed["artifacts"]


def _path(artifact: Mapping[str, Any]) -> str:
    return artifact["uri"].replace("minio://", "minio/")


def _image(root: Path) -> dict[str, str]:
    """Return what an image and its file system give a process, whoever runs it."""
    (root / "tmp").mkdir()
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join(
            [str(IMAGE), str(ROOT / "tests" / "ops" / "toys"), str(ROOT)]
        ),
        "POD_ROOT": str(root),
        "TMPDIR": str(root / "tmp"),
        "HOME": str(root / "tmp"),
        "VILA_CACHE": str(root / "cache"),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
    }
