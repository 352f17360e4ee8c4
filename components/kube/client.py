"""A client of the Kubernetes API with time limits and retries, whose errors explain themselves."""

from __future__ import annotations

import functools
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.kube.errors import Request, refusal, silence
from vila_core.errors import UserError, require

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_AGAIN = (429, 500, 502, 503, 504)
_NOT_BEGUN = (429, 503)
"""Answers after which nothing was done: what may be sent again though it creates something."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer, and how often to ask again. Seconds."""

    connect_s: float = 10.0
    read_s: float = 30.0
    tries: int = 5
    first_wait_s: float = 0.5
    most_wait_s: float = 30.0

    def wait(self, attempt: int, asked_for: str | None = None) -> float:
        """Return the pause after a failed attempt (from 0): as asked for by Retry-After, or
        doubled each time, somewhat at random so that clients don't come back together.
        """
        if asked_for and asked_for.isdigit():
            return min(float(asked_for), self.most_wait_s)
        return min(self.first_wait_s * 2**attempt * random.uniform(0.5, 1.0), self.most_wait_s)


def in_pod() -> bool:
    """Return whether this process runs in a pod with a service account."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (ACCOUNT / "token").is_file()


def in_cluster(patience: Patience | None = None) -> ApiClient:
    """Return a client with the pod's own service account. Raises UserError outside of a pod."""
    require("kubernetes", extra="pipeline", why="talk to a cluster")
    from kubernetes.client import Configuration
    from kubernetes.config import load_incluster_config
    from kubernetes.config.config_exception import ConfigException

    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException as error:
        raise UserError(
            f"this process does not run in a pod with a service account: {error}"
        ) from None
    return client(configuration, f"{configuration.host} (service account)", patience)


def by_kubeconfig(files: str, context: str | None, patience: Patience | None = None) -> ApiClient:
    """Return a client for a context (None: the current one) of kubeconfig files, ':' between them.

    Raises UserError for a file or context that can't be used.
    """
    require("kubernetes", extra="pipeline", why="talk to a cluster")
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config
    from kubernetes.config.config_exception import ConfigException

    configuration = Configuration()
    try:
        load_kube_config(
            config_file=files,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        named = f"context {context}" if context else "the current context"
        option = f" --context {context}" if context else ""
        raise UserError(
            f"{files}: {named} can't be used: {error}; "
            f"fix: kubectl{option} get namespaces must work first."
        ) from None
    shown = f" (context {context})" if context else ""
    return client(configuration, f"{configuration.host}{shown}", patience)


def client(
    configuration: Configuration, server: str, patience: Patience | None = None
) -> ApiClient:
    """Return a client whose requests are limited in time, retried, and explained.

    Sent again are requests that the API has not begun (429, 503, no connection), and all others
    but POST after any 5xx or broken connection. All of kubernetes.client's API classes take it;
    what they raise is a ClusterError. `server` is what messages call it.
    """
    configuration.retries = False  # type: ignore[assignment]  # ours know which are safe
    return _client_class()(configuration, server, patience or Patience())


@functools.cache
def _client_class() -> Any:
    from kubernetes.client import ApiClient
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError, NewConnectionError

    class Client(ApiClient):
        def __init__(self, configuration: Configuration, server: str, patience: Patience) -> None:
            super().__init__(configuration)
            self.server = server
            self.patience = patience

        def request(  # type: ignore[override]
            self,
            method: str,
            url: str,
            query_params: Any = None,
            headers: Any = None,
            post_params: Any = None,
            body: Any = None,
            _preload_content: bool = True,
            _request_timeout: Any = None,
        ) -> Any:
            limits = _request_timeout or (self.patience.connect_s, self.patience.read_s)
            asked = Request(method, url, self.server, ("watch", True) in (query_params or []))
            attempt = 0
            while True:
                wait = None
                try:
                    return super().request(
                        method,
                        url,
                        query_params,
                        headers,
                        post_params,
                        body,
                        _preload_content,
                        limits,
                    )
                except ApiException as error:
                    problem = _explained(asked, error)
                    status = error.status or 0
                    if status in _NOT_BEGUN or (method != "POST" and status in _AGAIN):
                        wait = self.patience.wait(attempt, (error.headers or {}).get("Retry-After"))
                except HTTPError as error:
                    problem = silence(asked, error)
                    if method != "POST" or isinstance(error, NewConnectionError):
                        wait = self.patience.wait(attempt)
                attempt += 1
                if wait is None or attempt >= self.patience.tries:
                    raise problem
                time.sleep(wait)

    def _explained(asked: Request, error: ApiException) -> Exception:
        if not error.status:  # what the client makes of a TLS error
            return silence(asked, error)
        body = error.body or b""
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        return refusal(asked, error.status, text)

    return Client
