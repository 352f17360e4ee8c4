"""Kubeflow Pipelines' API (v2beta1), through kfp's own generated client.

What may be asked twice is asked again after a lost answer; what creates something never is: then
`Unanswered` is raised, and whoever wanted it looks for it by name first.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.kube.client import Patience
from vila_core.errors import EXIT_USER, UserError, VilaError, require
from vila_ops.cluster.config import ClusterConfig
from vila_ops.cluster.connect import kubernetes_api

PATIENCE = Patience()
TERMINAL = {"SUCCEEDED": "succeeded", "FAILED": "failed", "CANCELED": "stopped"}
"""KFP's last states of a run, and ours."""
_LOOKS = 4  # for something that may have been created though the answer was lost
_LOOK_SECONDS = 0.3
_PAGE = 100

T = TypeVar("T")


class KfpError(VilaError):
    """Kubeflow Pipelines refused. `status` is the answer's HTTP status, 0 where there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Unanswered(KfpError):
    """No answer, or one that says to come again: whether it was carried out is not known."""


class NotThere(KfpError):
    """404: there is no such pipeline, run or version; it may have been deleted."""


class Exists(KfpError):
    """409: there is one of that name already."""


class NotAccepted(KfpError):
    """401 or 403: the credentials have expired, or lack the right."""

    exit_code = EXIT_USER


@dataclass(frozen=True)
class Version:
    """One version of an uploaded pipeline."""

    pipeline_id: str
    version_id: str
    name: str


class Kfp:
    """One installation of Kubeflow Pipelines. Nothing is sent before the first method is called."""

    def __init__(self, configuration: Any, server: str, namespace: str, patience: Patience) -> None:
        """Use a `kfp_server_api.Configuration`; `server` is what messages call it."""
        generated = _generated()
        self.server = server
        client = _client_class()(configuration, server, patience)
        self._namespace = namespace
        self._pipelines = generated.PipelineServiceApi(client)
        self._uploads = generated.PipelineUploadServiceApi(client)
        self._experiments = generated.ExperimentServiceApi(client)
        self._runs = generated.RunServiceApi(client)
        self._recurring = generated.RecurringRunServiceApi(client)
        self._health = generated.HealthzServiceApi(client)

    @classmethod
    def connect(cls, config: ClusterConfig, patience: Patience = PATIENCE) -> Kfp:
        """Return the KFP of a cluster: at `kfp.url`, else through the Kubernetes API.

        Raises UserError for a missing token, kubeconfig or context.
        """
        require("kfp_server_api", extra="pipeline", why="talk to Kubeflow Pipelines")
        made = _generated().Configuration()
        if config.kfp.url is not None:
            made.host = config.kfp.url.rstrip("/")
            if config.kfp.token_env is not None:
                made.api_key = {"authorization": _token(config.kfp.token_env)}
                made.api_key_prefix = {"authorization": "Bearer"}
            return cls(made, made.host, config.namespace, patience)
        known: Any = kubernetes_api(config).configuration
        place = config.kfp
        made.host = (
            f"{known.host.rstrip('/')}/api/v1/namespaces/{place.namespace}/services/"
            f"{place.service}:{place.port}/proxy"
        )
        for name in ("ssl_ca_cert", "cert_file", "key_file", "verify_ssl", "proxy"):
            setattr(made, name, getattr(known, name))
        if authorization := known.get_api_key_with_prefix("authorization"):
            made.api_key = {"authorization": authorization}
        server = f"{known.host} (service {place.service} of namespace {place.namespace})"
        return cls(made, server, config.namespace, patience)

    @functools.cached_property
    def many_users(self) -> bool:
        """Whether it runs tasks in users' namespaces, not in its own; asked once."""
        return bool(self._health.healthz_service_get_healthz().multi_user)

    # ---- pipelines and experiments ---------------------------------------------------------

    def version(self, pipeline: str, name: str, text: str, description: str) -> Version:
        """Return the version `name` of a pipeline; what is not there yet is uploaded."""
        pipeline_id = self._pipeline(pipeline)
        found = self._version(pipeline_id, name)
        if found is not None:
            return found

        def upload() -> Version:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{pipeline}.yaml"
                path.write_text(text, encoding="utf-8")
                made = self._uploads.upload_pipeline_version(
                    str(path), name=name, pipelineid=pipeline_id, description=description
                )
            return Version(pipeline_id, made.pipeline_version_id, name)

        return _once(lambda: self._version(pipeline_id, name), upload)

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made where there is none."""
        generated = _generated()

        def look() -> str | None:
            found = self._experiments.experiment_service_list_experiments(
                filter=_named(name), **self._scope()
            )
            return found.experiments[0].experiment_id if found.experiments else None

        def make() -> str:
            wanted = generated.V2beta1Experiment(display_name=name, **self._scope())
            return self._experiments.experiment_service_create_experiment(wanted).experiment_id

        return look() or _once(look, make)

    def _pipeline(self, name: str) -> str:
        generated = _generated()

        def look() -> str | None:
            found = self._pipelines.pipeline_service_list_pipelines(
                filter=_named(name), **self._scope()
            )
            return found.pipelines[0].pipeline_id if found.pipelines else None

        def make() -> str:
            wanted = generated.V2beta1Pipeline(display_name=name, name=name, **self._scope())
            return self._pipelines.pipeline_service_create_pipeline(wanted).pipeline_id

        return look() or _once(look, make)

    def _version(self, pipeline_id: str, name: str) -> Version | None:
        found = self._pipelines.pipeline_service_list_pipeline_versions(
            pipeline_id, filter=_named(name, "name")
        )
        for version in found.pipeline_versions or ():
            return Version(pipeline_id, version.pipeline_version_id, name)
        return None

    # ---- runs ------------------------------------------------------------------------------

    def run(
        self,
        name: str,
        version: Version,
        experiment_id: str,
        parameters: Mapping[str, str],
        *,
        service_account: str,
        description: str,
    ) -> str:
        """Start a run and return its id; one of that name in the experiment is taken as it is.

        So a submission that is repeated after a lost answer starts nothing twice.
        """
        generated = _generated()
        started: list[str] = []

        def make() -> str:
            wanted = generated.V2beta1Run(
                display_name=name,
                description=description,
                experiment_id=experiment_id,
                pipeline_version_reference=_reference(version),
                runtime_config=generated.V2beta1RuntimeConfig(parameters=dict(parameters)),
                service_account=service_account,
            )
            started.append(self._runs.run_service_create_run(run=wanted).run_id)
            return started[-1]

        def look() -> str | None:
            return self.find_run(name, experiment_id)

        found = look() or _once(look, make)
        for other in started:
            if other != found:  # the lost request was carried out after all, and first
                self.terminate(other)
        return found

    def find_run(self, name: str, experiment_id: str) -> str | None:
        """Return the id of the (first) run with that display name, None when there is none."""
        found = self._runs.run_service_list_runs(
            experiment_id=experiment_id, filter=_named(name), sort_by="created_at asc"
        )
        return found.runs[0].run_id if found.runs else None

    def state(self, run_id: str) -> tuple[str, str]:
        """Return KFP's state of a run and the error that it tells. Raises NotThere."""
        found = self._runs.run_service_get_run(run_id)
        return found.state or "PENDING", _message(found)

    def terminate(self, run_id: str) -> None:
        """Ask for the end of a run; one that has ended already stays as it is."""
        try:
            self._runs.run_service_terminate_run(run_id)
        except KfpError as error:
            if error.status != 400 or self.state(run_id)[0] not in TERMINAL:
                raise

    # ---- recurring runs --------------------------------------------------------------------

    def recurring(
        self,
        name: str,
        version: Version,
        experiment_id: str,
        parameters: Mapping[str, str],
        *,
        cron: str,
        service_account: str,
        description: str,
    ) -> str:
        """Start a schedule and return its id; one of that name is taken as it is."""
        generated = _generated()

        def look() -> str | None:
            found = self._recurring.recurring_run_service_list_recurring_runs(
                experiment_id=experiment_id, filter=_named(name)
            )
            return found.recurring_runs[0].recurring_run_id if found.recurring_runs else None

        def make() -> str:
            wanted = generated.V2beta1RecurringRun(
                display_name=name,
                description=description,
                experiment_id=experiment_id,
                pipeline_version_reference=_reference(version),
                runtime_config=generated.V2beta1RuntimeConfig(parameters=dict(parameters)),
                service_account=service_account,
                mode=generated.RecurringRunMode.ENABLE,
                max_concurrency="1",
                no_catchup=True,
                trigger=generated.V2beta1Trigger(
                    cron_schedule=generated.V2beta1CronSchedule(cron=cron)
                ),
            )
            return self._recurring.recurring_run_service_create_recurring_run(
                wanted
            ).recurring_run_id

        return look() or _once(look, make)

    def end_recurring(self, recurring_id: str) -> None:
        """Remove a schedule; runs that it has started go on."""
        self._recurring.recurring_run_service_delete_recurring_run(recurring_id)

    def triggered(self, recurring_id: str) -> Iterator[str]:
        """Yield the ids of the runs that a schedule has started, the newest first."""
        token = ""
        while True:
            found = self._runs.run_service_list_runs(
                page_token=token, page_size=_PAGE, sort_by="created_at desc", **self._scope()
            )
            for run in found.runs or ():
                if run.recurring_run_id == recurring_id:
                    yield run.run_id
            token = found.next_page_token or ""
            if not token:
                return

    def _scope(self) -> dict[str, str]:
        return {"namespace": self._namespace} if self.many_users else {}


def _once(look: Callable[[], T | None], make: Callable[[], T]) -> T:
    """Make something; where somebody was faster, or the answer was lost, look for it."""
    try:
        return make()
    except Exists as error:
        found = look()
        if found is None:
            raise error
        return found
    except Unanswered as error:
        for attempt in range(_LOOKS):  # what was received may still be on its way into the database
            time.sleep(_LOOK_SECONDS * attempt)
            found = look()
            if found is not None:
                return found
        if error.status == 0 or error.status >= 500:
            made = make()  # it was not carried out, as far as can be seen
            return look() or made
        raise


def _named(name: str, key: str = "display_name") -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": name}]})


def _reference(version: Version) -> Any:
    return _generated().V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
    )


def _message(run: Any) -> str:
    told = [run.error.message] if run.error and run.error.message else []
    details = run.run_details.task_details if run.run_details else None
    for task in details or ():
        if task.state == "FAILED" and task.error and task.error.message:
            told.append(f"{task.display_name}: {task.error.message}")
    return "; ".join(dict.fromkeys(told))


def _token(variable: str) -> str:
    token = os.environ.get(variable, "").strip()
    if not token:
        raise UserError(
            f"kfp.token_env: the environment variable {variable} holds no token; "
            f"fix: export {variable}=…"
        )
    return token


def _generated() -> Any:
    """Return kfp's generated client, imported late; its methods say nothing of their types."""
    return importlib.import_module("kfp_server_api")


@functools.cache
def _client_class() -> Any:
    from kfp_server_api import ApiClient
    from kfp_server_api.exceptions import ApiException
    from urllib3.exceptions import HTTPError, NewConnectionError

    class Client(ApiClient):
        """kfp's client with time limits, retries where nothing is done twice, and explanations."""

        def __init__(self, configuration: Any, server: str, patience: Patience) -> None:
            configuration.retries = False
            super().__init__(configuration)
            self.server, self.patience = server, patience

        def request(self, method: str, url: str, **given: Any) -> Any:  # type: ignore[override]
            limits = given.pop("_request_timeout", None)
            limits = limits or (self.patience.connect_s, self.patience.read_s)
            attempt = 0
            while True:
                again = False
                asked_for = None
                # A copy: sending a file removes the content type, and would fail the next time.
                again_as = {**given, "headers": dict(given.get("headers") or {})}
                try:
                    return super().request(method, url, _request_timeout=limits, **again_as)
                except ApiException as error:
                    status = error.status or 0
                    problem = _refusal(self.server, status, error)
                    asked_for = (error.headers or {}).get("Retry-After")
                    again = status in (429, 503) or (
                        method != "POST" and status in (0, 500, 502, 504)
                    )
                except HTTPError as error:
                    text = str(error).strip().splitlines() or [""]
                    problem = Unanswered(
                        f"{self.server}: Kubeflow Pipelines does not answer "
                        f"({type(error).__name__}: {text[-1][:200]}); fix: check the network, and "
                        "that it runs: vila cluster check"
                    )
                    again = method != "POST" or isinstance(error, NewConnectionError)
                attempt += 1
                if not again or attempt >= self.patience.tries:
                    raise problem
                time.sleep(self.patience.wait(attempt - 1, asked_for))

    return Client


def _refusal(server: str, status: int, error: Any) -> KfpError:
    body = error.body or b""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
    try:
        answer = json.loads(text)
        text = answer.get("message") or answer.get("error") or text
    except (ValueError, AttributeError):
        pass
    text = str(text or error.reason or "no message").strip()[:1000]
    lead = f"{server}: Kubeflow Pipelines: "
    if status == 401:
        return NotAccepted(
            f"{lead}the credentials have expired or are not accepted (401); fix: log in again.",
            status,
        )
    if status == 403:
        return NotAccepted(f"{lead}{text} (403); fix: ask an administrator for that right.", status)
    if status == 404:
        return NotThere(f"{lead}{text}", status)
    if status == 409:
        return Exists(f"{lead}{text}", status)
    if status in (0, 408, 429, 500, 502, 503, 504):
        hint = "too many requests" if status == 429 else text
        return Unanswered(f"{lead}answers {status}: {hint}; fix: try again later.", status)
    return KfpError(f"{lead}answers {status}: {text}", status)
