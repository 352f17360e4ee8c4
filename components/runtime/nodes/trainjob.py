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
from typing import TYPE_CHECKING, Any, TypeVar

from components.runtime.context import Context, TrainJobPlace
from components.runtime.failure import Stopped
from components.runtime.nodes.fleet import NodesCall, State
from components.runtime.nodes.pods import bad_end, number_of, waits_for
from vila_core.errors import UserError, VilaError, require

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
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
_TIMEOUT = (3.0, 10.0)  # seconds to connect, and to be answered
_STOP_SECONDS = 180.0  # longer than pods are given to end
_TRY_SECONDS = 60.0

T = TypeVar("T")


class TrainJobNodes:
    """The nodes of one attempt; each start is a TrainJob of its own.

    What an earlier attempt of the same task has left is deleted first. Every TrainJob is owned by
    the step's pod: Kubernetes deletes it when that goes. `api` is the cluster's, by default that of
    KUBECONFIG or the pod's own. Errors of the API that may pass are told and waited out.
    """

    pause_s = 5.0

    def __init__(
        self,
        place: TrainJobPlace,
        call: NodesCall,
        run: Context,
        attempt: int,
        say: Callable[[str], None],
        api: ApiClient | None = None,
    ) -> None:
        require("kubernetes", extra="pipeline", why="train on the nodes of a TrainJob")
        from kubernetes import client

        api = api or _api()
        self.wait_s = float(place.wait_s)
        self._jobs, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
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
        # Made by a request whose answer was lost: names are unique per attempt and start.
        with contextlib.suppress(_Exists):
            self._try(
                lambda: self._jobs.create_namespaced_custom_object(
                    GROUP, VERSION, self._place.namespace, PLURAL, body, _request_timeout=_TIMEOUT
                )
            )
        return f"TrainJob {self._name} in namespace {self._place.namespace}"

    def state(self) -> State:
        """See `Fleet`."""
        fresh = time.monotonic() - self._looked < _LOOK_SECONDS
        if fresh or self._state.final or self._state.status == "ended":
            return self._state
        try:
            job = self._get(self._name)
            pods = self._list_pods() if job is not None else []
        except _Passing as error:
            if time.monotonic() - self._answered > _SILENT_SECONDS:
                raise VilaError(f"{error}, for {_SILENT_SECONDS:.0f} s.") from None
            if not self._silent:
                self._silent = True
                self._say(f"{error}: tries again; the nodes are not concerned")
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
        names = [pod.metadata.name for pod in self._seen if number_of(pod) == number]
        if not names:
            return []
        try:
            text: Any = _asked(
                lambda: self._core.read_namespaced_pod_log(
                    names[0], self._place.namespace, tail_lines=_LINES, _request_timeout=_TIMEOUT
                )
            )
        except (_Missing, _Passing, VilaError):
            return []
        return str(text).splitlines()

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
        here = {number_of(pod): pod.metadata.uid for pod in pods}
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
        try:
            found: Any = _asked(
                lambda: self._jobs.get_namespaced_custom_object(
                    GROUP, VERSION, self._place.namespace, PLURAL, name, _request_timeout=_TIMEOUT
                )
            )
        except _Missing:
            return None
        return found

    def _list_pods(self) -> list[Any]:
        return _asked(
            lambda: self._core.list_namespaced_pod(
                self._place.namespace,
                label_selector=f"{OF_JOB}={self._name}",
                _request_timeout=_TIMEOUT,
            )
        ).items

    def _left(self) -> list[str]:
        selector = f"{RUN}={label(self._run.run_id)},{TASK}={label(self._call.task)}"
        found: Any = self._try(
            lambda: self._jobs.list_namespaced_custom_object(
                GROUP,
                VERSION,
                self._place.namespace,
                PLURAL,
                label_selector=selector,
                _request_timeout=_TIMEOUT,
            )
        )
        return [item["metadata"]["name"] for item in found["items"]]

    # ---- what is done ---------------------------------------------------------------------------

    def _delete(self, name: str) -> None:
        """Delete a TrainJob and wait until it and its pods are gone."""
        deadline = time.monotonic() + _STOP_SECONDS
        asked = False
        while time.monotonic() < deadline:
            try:
                if not asked:
                    _asked(
                        lambda: self._jobs.delete_namespaced_custom_object(
                            GROUP,
                            VERSION,
                            self._place.namespace,
                            PLURAL,
                            name,
                            propagation_policy="Foreground",
                            _request_timeout=_TIMEOUT,
                        )
                    )
                    asked = True
                if self._get(name) is None and not self._pods_of(name):
                    return
            except _Missing:
                asked = True
                if not self._pods_of(name):
                    return
            except _Passing:
                pass
            time.sleep(0.5)
        self._say(
            f"TrainJob {name} is not gone after {_STOP_SECONDS:.0f} s; see: kubectl --namespace "
            f"{self._place.namespace} get trainjob,pod --selector {OF_JOB}={name}"
        )

    def _pods_of(self, name: str) -> bool:
        selector = f"{OF_JOB}={name}"
        found = _asked(
            lambda: self._core.list_namespaced_pod(
                self._place.namespace, label_selector=selector, _request_timeout=_TIMEOUT
            )
        )
        return bool(found.items)

    def _owner(self) -> dict[str, Any] | None:
        """Return the owner reference to this step's pod, None outside of a pod."""
        name = os.environ.get("VILA_POD_NAME") or socket.gethostname()
        uid = os.environ.get("VILA_POD_UID")
        if not uid:
            try:
                found: Any = self._try(
                    lambda: self._core.read_namespaced_pod(
                        name, self._place.namespace, _request_timeout=_TIMEOUT
                    )
                )
                uid = found.metadata.uid
            except _Missing:
                self._say("this step is no pod: its TrainJob has no owner that it goes with")
                return None
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}

    def _try(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, for a minute at most."""
        deadline = time.monotonic() + _TRY_SECONDS
        pause = 0.5
        while True:
            try:
                return _asked(ask)
            except _Passing as error:
                if time.monotonic() + pause > deadline:
                    raise VilaError(f"{error}, for {_TRY_SECONDS:.0f} s.") from None
            time.sleep(pause)
            pause = min(2 * pause, 8.0)


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
        "apiVersion": f"{GROUP}/{VERSION}",
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


# ---- the API's errors ------------------------------------------------------------------------


class _Missing(Exception):
    pass


class _Exists(Exception):
    pass


class _Passing(Exception):
    """An error that may pass; its text is a sentence without a full stop."""


def _api() -> ApiClient:
    from kubernetes import client, config

    try:
        if os.environ.get("KUBECONFIG"):
            config.load_kube_config()
        else:
            config.load_incluster_config()
    except (config.ConfigException, OSError) as error:
        raise UserError(
            f"the task's nodes are a TrainJob, but no Kubernetes API is known: {error}\n"
            "  fix: run it on the cluster, or set KUBECONFIG."
        ) from None
    return client.ApiClient()


def _asked(ask: Callable[[], T]) -> T:
    """Return the answer. Raises _Missing, _Exists, _Passing, and VilaError for the rest."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return ask()
    except ApiException as error:
        status, text = error.status or 0, _message(error)
        if status == 404 and "could not find the requested resource" not in text:
            raise _Missing from None
        if status == 409:
            raise _Exists from None
        if status == 429 or status >= 500 or status == 0:
            raise _Passing(f"the Kubernetes API answers {status} ({text})") from None
        raise VilaError(_explained(status, text)) from None
    except (HTTPError, OSError) as error:
        raise _Passing(f"the Kubernetes API does not answer ({type(error).__name__})") from None


def _message(error: Any) -> str:
    found = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', str(error.body or ""))
    return found[1].replace('\\"', '"') if found else str(error.reason)


def _explained(status: int, text: str) -> str:
    if status == 404:
        return (
            f"the cluster knows no TrainJobs ({text}). Fix: install Kubeflow Trainer 2.3; "
            "'vila cluster check' tells what else is missing."
        )
    if status == 401:
        return "the Kubernetes API takes no credentials of this step (401). Fix: its ServiceAccount"
    if status == 403:
        return (
            f"this step may not do that: {text}. Fix: give it the service account vila-train, "
            "whose rights are in k8s/."
        )
    return f"the Kubernetes API refuses the TrainJob ({status}): {text}"
