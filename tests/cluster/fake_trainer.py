"""Kubeflow Trainer, JobSet, scheduler and kubelet in one: a TrainJob's pods are processes here.

They get what the torch runtime of Trainer 2.3 gives: the command, image and variables of the
TrainJob, PET_* variables, and JobSet's labels; each has a VILA_CACHE of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.api_server import ApiServer

JOB, POD = ("trainer.kubeflow.org/v1alpha1", "TrainJob"), ("v1", "Pod")
SPACE = "vila"
PLACE: dict[str, Any] = {
    "namespace": SPACE,
    "runtime": "vila-torch",
    "image": "registry.example/train:1",
    "service_account": "vila-step",
    "queue": "vila",
    "resources": {"limits": {"nvidia.com/gpu": "8"}, "requests": {"nvidia.com/gpu": "8"}},
    "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    "pod": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        "securityContext": {"fsGroup": 10001},
        "priorityClassName": "vila-training",
    },
    "volume_mounts": [{"name": "shm", "mountPath": "/dev/shm"}],
}


class FakeTrainer:
    """Runs until the end of the block. `unschedulable`: pods wait while this says why."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.kube, self.folder = server.kube, folder
        self.unschedulable = ""
        self.queued = False
        self.started: list[str] = []  # names of TrainJobs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        self._end = threading.Event()

    @contextlib.contextmanager
    def working(self) -> Iterator[FakeTrainer]:
        thread = threading.Thread(target=self._work, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()
            for name in list(self._processes):
                self._kill(name)

    def kill(self, pod: str) -> list[psutil.Process]:
        """End a pod's processes at once, as a machine that loses power does."""
        return self._kill(pod)

    def processes(self) -> list[psutil.Process]:
        """Every process of every pod."""
        found = []
        for process in self._processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                own = psutil.Process(process.pid)
                found += [own, *own.children(recursive=True)]
        return found

    def _work(self) -> None:
        while not self._end.wait(0.1):
            for job in self.kube.find("TrainJob", SPACE):
                self._reconcile(job)
            there = {pod["metadata"]["name"] for pod in self.kube.find("Pod", SPACE)}
            for name, process in list(self._processes.items()):
                if name not in there:  # deleted: the kubelet's SIGTERM; SIGKILL is the tests'
                    if process.poll() is None:
                        process.send_signal(signal.SIGTERM)
                        process.wait(60)
                    self._kill(name)

    def _reconcile(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        if self.queued:
            told = condition("Suspended", "Suspended", "TrainJob is suspended")
            return self._tell(name, told)
        if name not in self.started:
            self.started.append(name)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[name] = probe.getsockname()[1]
            for number in range(job["spec"]["trainer"]["numNodes"]):
                self.kube.add(pod_of(job, number))
        phases = [self._run(job, pod) for pod in self.pods(name)]
        if "Failed" in phases:
            self._tell(name, condition("Failed", "FailedJobs", "jobset failed due to a failed job"))
        elif phases and set(phases) == {"Succeeded"}:
            self._tell(name, condition("Complete", "AllJobsCompleted", "jobset completed"))
        return None

    def pods(self, job: str) -> list[dict[str, Any]]:
        return self.kube.find("Pod", SPACE, f"jobset.sigs.k8s.io/jobset-name={job}")

    def _run(self, job: dict[str, Any], pod: dict[str, Any]) -> str:
        """Do what scheduler and kubelet do for one pod; return its phase."""
        name = pod["metadata"]["name"]
        phase = pod.get("status", {}).get("phase", "Pending")
        if phase in ("Succeeded", "Failed"):
            return phase
        if self.unschedulable and name not in self._processes:
            told = condition("PodScheduled", "Unschedulable", self.unschedulable, "False")
            return self._set(name, "Pending", conditions=[told])
        if name not in self._processes:
            self._processes[name] = self._start(job, pod)
        code = self._processes[name].poll()
        if code is None:
            if phase != "Running":
                self._set(name, "Running", state={"running": {}})
            return "Running"
        log = (self.folder / f"{name}.txt").read_text(errors="replace")
        self.kube.write_log(SPACE, name, *log.splitlines())
        ended = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Error" if code else "Completed",
        }
        return self._set(name, "Failed" if code else "Succeeded", state={"terminated": ended})

    def _set(self, name: str, phase: str, **what: Any) -> str:
        status: dict[str, Any] = {"phase": phase}
        if "state" in what:
            status["containerStatuses"] = [container_status(what["state"])]
        if "conditions" in what:
            status["conditions"] = what["conditions"]
        with contextlib.suppress(KeyError):  # deleted meanwhile
            self.kube.set_status(*POD, SPACE, name, status)
        return phase

    def _start(self, job: dict[str, Any], pod: dict[str, Any]) -> subprocess.Popen[bytes]:
        number = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        trainer = job["spec"]["trainer"]
        environment = {
            **os.environ,
            "VILA_CACHE": str(self.folder / f"machine-{number}"),
            **{each["name"]: each["value"] for each in trainer["env"]},
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": number,
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(self._ports[job["metadata"]["name"]]),
        }
        python, *command = trainer["command"]
        assert python == "python3"
        log = self.folder / f"{pod['metadata']['name']}.txt"
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *command, *trainer["args"]],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _kill(self, name: str) -> list[psutil.Process]:
        process = self._processes[name]
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(process.pid)
            found = [own, *own.children(recursive=True)]
            for each in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        process.wait()
        if not self.kube.get(*POD, SPACE, name):
            self._processes.pop(name, None)
        return found

    def _tell(self, name: str, told: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            self.kube.set_status(*JOB, SPACE, name, {"conditions": [told]})


def condition(kind: str, reason: str, message: str, status: str = "True") -> dict[str, Any]:
    """A condition as controllers write it."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def container_status(state: dict[str, Any], restarts: int = 0) -> dict[str, Any]:
    """The status of the container `node`."""
    return {
        "name": "node",
        "image": "train",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": restarts,
        "state": state,
    }


def pod_of(job: dict[str, Any], number: int) -> dict[str, Any]:
    """The pod that JobSet makes for one node."""
    meta, trainer = job["metadata"], job["spec"]["trainer"]
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    labels = node["template"]["spec"]["template"]["metadata"]["labels"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{meta['name']}-node-0-{number}",
            "namespace": meta["namespace"],
            "labels": {
                **labels,
                "jobset.sigs.k8s.io/jobset-name": meta["name"],
                "batch.kubernetes.io/job-completion-index": str(number),
            },
            "ownerReferences": [
                {"apiVersion": JOB[0], "kind": JOB[1], "name": meta["name"], "uid": meta["uid"]}
            ],
        },
        "spec": {"containers": [{"name": "node", "image": trainer["image"]}], "nodeName": "gpu-1"},
        "status": {"phase": "Pending"},
    }
