"""Nodes as the pods of a TrainJob, Kubeflow Trainer v2 (trainer.kubeflow.org/v1alpha1).

The runtime that the TrainJob refers to must have torch's policy, and as `node` both the replicated
job and the container of the trainer, as Trainer's own torch runtimes do. A pod that ends, whatever
made it end, ends the TrainJob: a node alone can't join the others again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from components.kube import objects
from components.kube.client import Patience, by_kubeconfig, in_cluster
from components.kube.errors import NoAnswer, Taken
from components.runtime.context import Context, TrainJobPlace
from components.runtime.failure import Stopped
from components.runtime.nodes.fleet import NodesCall, State
from components.runtime.nodes.pods import bad_end, number_of, waits_for
from vila_core.errors import UserError, VilaError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

GROUP, PLURAL = "trainer.kubeflow.org", "trainjobs"
JOBS = f"{GROUP}/v1alpha1"
RUN, TASK, NODE = "vila.dev/run", "vila.dev/task", "vila.dev/node"
QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
OF_JOB = "jobset.sigs.k8s.io/jobset-name"
"""JobSet's label on every pod; a JobSet has its TrainJob's name."""
PATCHED = (
    "affinity",
    "imagePullSecrets",
    "nodeSelector",
    "schedulingGates",
    "securityContext",
    "terminationGracePeriodSeconds",
    "tolerations",
    "volumes",
)
"""What Trainer 2.3 lets a TrainJob change of its runtime's pods, beside containers and account."""
_LOOK_SECONDS = 3.0
_SILENT_SECONDS = 1800.0  # of the API; meanwhile the nodes may well be training
_LINES = 20
PATIENCE = Patience(connect_s=3, read_s=10, tries=10, most_wait_s=8)
"""Where there must be an answer: about a minute."""
GLANCE = Patience(connect_s=3, read_s=10, tries=1)
"""For looks that come again anyway."""
_STOP_SECONDS = 180.0  # longer than pods are given to end


class TrainJobNodes:
    """The nodes of one attempt; each start is a TrainJob of its own.

    What an earlier attempt of the same task has left is deleted first. Every TrainJob is owned by
    the step's pod: Kubernetes deletes it when that goes. `connect` reaches the cluster's API, by
    default that of KUBECONFIG or the pod's own. Errors of the API that may pass are told and waited
    out.
    """

    pause_s = 5.0

    def __init__(
        self,
        place: TrainJobPlace,
        call: NodesCall,
        run: Context,
        attempt: int,
        say: Callable[[str], None],
        connect: Callable[[Patience], ApiClient] | None = None,
    ) -> None:
        connect = connect or _connect
        self.wait_s = float(place.wait_s)
        self._api, self._glance = connect(PATIENCE), connect(GLANCE)
        self._place, self._call, self._run, self._say = place, call, run, say
        self._prefix = f"{job_prefix(run.run_id, call.task)}-{attempt}"
        self._name = ""
        self._pods: dict[int, str] = {}  # uid by node, as first seen
        self._seen: list[Any] = []  # the pods, when last looked at
        self._state, self._looked, self._answered = State("waiting", "new"), 0.0, time.monotonic()
        self._silent = False

    def start(self, number: int, place: str) -> str:
        """See `Fleet`."""
        if number == 1:
            for name in self._left():
                self._say(f"deletes TrainJob {name}, which an earlier attempt has left")
                self._delete(name)
        self._name, self._pods = f"{self._prefix}-{number}", {}
        self._state, self._looked, self._answered = State("waiting", "new"), 0.0, time.monotonic()
        body = train_job(self._name, self._place, self._call, self._run, place, owner=self._owner())
        self._create(body)
        return f"TrainJob {self._name} in namespace {self._place.namespace}"

    def state(self) -> State:
        """See `Fleet`."""
        fresh = time.monotonic() - self._looked < _LOOK_SECONDS
        if fresh or self._state.final or self._state.status == "ended":
            return self._state
        try:
            job = self._get(self._name)
            pods = self._list_pods(self._name) if job is not None else []
        except NoAnswer as error:
            if time.monotonic() - self._answered > _SILENT_SECONDS:
                raise
            if not self._silent:
                self._silent = True
                self._say(f"{error} The nodes are not concerned")
            return self._state
        if self._silent:
            self._silent = False
            self._say("the Kubernetes API answers again")
        self._looked = self._answered = time.monotonic()
        self._seen = pods
        self._state = self._read(job, pods)
        return self._state

    def last_words(self, number: int) -> list[str]:
        """See `Fleet`: the end of the pod's log, if it can still be had."""
        names = [pod["metadata"]["name"] for pod in self._seen if number_of(pod) == number]
        if not names:
            return []
        log = f"{self._address('v1', 'pods', names[0])}/log"
        try:
            return list(objects.lines(self._glance, log, query=[("tailLines", _LINES)]))
        except VilaError:
            return []

    def stop(self) -> None:
        """See `Fleet`."""
        if self._name:
            self._delete(self._name)

    # ---- what there is --------------------------------------------------------------------------

    def _read(self, job: Mapping[str, Any] | None, pods: list[Any]) -> State:
        """Return the state that a TrainJob and its pods are in."""
        if job is None:
            raise Stopped(f"TrainJob {self._name} was deleted by somebody else")
        conditions = _conditions(job)
        lost = {number_of(pod): why for pod in pods if (why := bad_end(pod))}
        here = {number_of(pod): pod["metadata"]["uid"] for pod in pods}
        for number, uid in self._pods.items():
            if here.get(number) != uid:
                lost.setdefault(number, "its pod was deleted (preempted, or its machine is gone)")
        if "Complete" in conditions:
            return State("ended")
        if memory := [why for why in lost.values() if "OOMKilled" in why]:
            return State("lost", f"{memory[0]} {_OUT_OF_MEMORY}", lost, final=True)
        if failed := conditions.get("Failed"):
            told = f"TrainJob {self._name} failed: {failed.get('reason')}: {failed.get('message')}"
            wrong = failed.get("reason") in ("TrainingRuntimeNotSupported", "DeadlineExceeded")
            return State("lost", told, lost, final=wrong)
        if lost:
            return State("lost", next(iter(lost.values())), lost)
        self._pods |= here
        if suspended := conditions.get("Suspended"):
            queue = f" in queue {self._place.queue}" if self._place.queue else ""
            return State("queued", f"TrainJob {self._name} waits{queue}: {suspended['message']}")
        waiting = [f"node {number_of(pod)}: {why}" for pod in pods if (why := waits_for(pod))]
        nodes = self._call.config["train"]["nodes"]
        if waiting or len(pods) < nodes:
            missing = "" if len(pods) >= nodes else f"{len(pods)} of {nodes} pods are made"
            return State("waiting", "; ".join([*sorted(waiting), *filter(None, [missing])]))
        return State("running")

    def _get(self, name: str) -> Mapping[str, Any] | None:
        return objects.find(self._glance, self._address(JOBS, PLURAL, name))

    def _list_pods(self, name: str) -> list[Any]:
        path = self._address("v1", "pods")
        return objects.listed(self._glance, path, selector=f"{OF_JOB}={name}")

    def _left(self) -> list[str]:
        selector = f"{RUN}={label(self._run.run_id)},{TASK}={label(self._call.task)}"
        found = objects.listed(self._api, self._address(JOBS, PLURAL), selector=selector)
        return [item["metadata"]["name"] for item in found]

    def _address(self, version: str, plural: str, name: str = "") -> str:
        return objects.address(version, plural, self._place.namespace, name)

    # ---- what is done ---------------------------------------------------------------------------

    def _create(self, body: dict[str, Any]) -> None:
        """Make the TrainJob. One of its name, unique by attempt and start, is by a lost answer."""
        attempt = 0
        while True:
            try:
                with contextlib.suppress(Taken):
                    objects.create(self._api, self._address(JOBS, PLURAL), body)
                return
            except NoAnswer:
                attempt += 1
                if attempt >= PATIENCE.tries:
                    raise
                time.sleep(PATIENCE.wait(attempt))

    def _delete(self, name: str) -> None:
        """Delete a TrainJob and wait until it and its pods are gone."""
        deadline = time.monotonic() + _STOP_SECONDS
        asked = False
        while time.monotonic() < deadline:
            with contextlib.suppress(NoAnswer):
                if not asked:
                    objects.delete(self._glance, self._address(JOBS, PLURAL, name))
                    asked = True
                if self._get(name) is None and not self._list_pods(name):
                    return
            time.sleep(0.5)
        self._say(
            f"TrainJob {name} is not gone after {_STOP_SECONDS:.0f} s; see: kubectl --namespace "
            f"{self._place.namespace} get trainjob,pod --selector {OF_JOB}={name}"
        )

    def _owner(self) -> dict[str, Any] | None:
        """Return the owner reference to this step's pod, None outside of a pod."""
        name = os.environ.get("VILA_POD_NAME") or socket.gethostname()
        uid = os.environ.get("VILA_POD_UID")
        if not uid:
            pod = objects.find(self._api, self._address("v1", "pods", name))
            if pod is None:
                self._say("this step is no pod: its TrainJob has no owner that it goes with")
                return None
            uid = pod["metadata"]["uid"]
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


_OUT_OF_MEMORY = (
    "Starting it again would not help. Fix: more memory for the task in the cluster's config, "
    "smaller packs, or a higher zero_stage."
)


def train_job(
    name: str,
    place: TrainJobPlace,
    call: NodesCall,
    run: Context,
    where: str,
    *,
    owner: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the TrainJob whose nodes do the call at `where` in the store.

    Raises UserError for what a TrainJob can't set of its pods.
    """
    labels = {RUN: label(run.run_id), TASK: label(call.task)}
    pod = dict(place.pod)
    priority = pod.pop("priorityClassName", None)
    if wrong := sorted(pod.keys() - set(PATCHED)):
        raise UserError(
            f"nodes of {call.task}: a TrainJob can't set {', '.join(wrong)} of its pods.\n"
            f"  fix: set it in the ClusterTrainingRuntime {place.runtime}."
        )
    pod["serviceAccountName"] = place.service_account
    if place.volume_mounts:
        mounts = [dict(mount) for mount in place.volume_mounts]
        pod["containers"] = [{"name": "node", "volumeMounts": mounts}]
    queued = {QUEUE: place.queue} if place.queue else {}
    if place.queue and priority:
        queued[PRIORITY] = priority
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": place.namespace,
        "labels": {**labels, **queued},
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    template = {"metadata": {"labels": {**labels, NODE: "true"}}, "spec": pod}
    jobs = [{"name": "node", "template": {"spec": {"template": template}}}]
    train = call.config["train"]
    return {
        "apiVersion": JOBS,
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": GROUP,
                "kind": "ClusterTrainingRuntime",
                "name": place.runtime,
            },
            "trainer": {
                "image": place.image,
                "command": ["python3", "-m", "components.runtime.nodes.entry"],
                "args": [run.store, where],
                "numNodes": train["nodes"],
                "numProcPerNode": train["processes"],
                "resourcesPerNode": {kind: dict(n) for kind, n in place.resources.items()},
                "env": [dict(variable) for variable in place.env],
            },
            "runtimePatches": [
                {
                    "manager": "vila.dev/step",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
                }
            ],
        },
    }


def job_prefix(run_id: str, task: str) -> str:
    """Return how the names of all TrainJobs of a task of a run begin."""
    return f"vila-{hashlib.sha256(f'{run_id}/{task}'.encode()).hexdigest()[:10]}"


def label(text: str) -> str:
    """Return `text` if it can be a label's value, else a digest that can."""
    if re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _conditions(job: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the conditions that hold, by type."""
    found = (job.get("status") or {}).get("conditions") or []
    return {each["type"]: each for each in found if each["status"] == "True"}


def _connect(patience: Patience) -> ApiClient:
    """Return a client of the cluster that KUBECONFIG names, else of the one this pod is in."""
    files = os.environ.get("KUBECONFIG")
    return by_kubeconfig(files, None, patience) if files else in_cluster(patience)
