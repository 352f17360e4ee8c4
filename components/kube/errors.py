"""Why the Kubernetes API refused or did not answer, and what to do: one error a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.kube.kinds import PROVIDERS
from vila_core.errors import EXIT_USER, VilaError

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<part>[^/]+))?)?$"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ClusterError(VilaError):
    """The Kubernetes API refused. `status` is the answer's HTTP status, 0 where there was none."""

    status = 0


class NotAuthenticated(ClusterError):
    """401: the credentials are missing, wrong or have expired."""

    status = 401
    exit_code = EXIT_USER


class NotAllowed(ClusterError):
    """403: the user or service account lacks a right."""

    status = 403


class QuotaExceeded(ClusterError):
    """403: the object would exceed a quota of the namespace."""

    status = 403


class Absent(ClusterError):
    """404: there is no such object."""

    status = 404


class KindMissing(Absent):
    """404: the cluster does not know the kind; its CRD is not installed."""


class Taken(ClusterError):
    """409: there is an object of that name already."""

    status = 409


class Changed(ClusterError):
    """409: somebody else changed the object, or holds the fields that were to be set."""

    status = 409


class Expired(ClusterError):
    """410: the version to continue from is too old; list again."""

    status = 410


class Invalid(ClusterError):
    """400 or 422: the object is not valid."""

    status = 422


class NoAnswer(ClusterError):
    """The API is out of reach, too slow, or broke off: trying again may help."""


@dataclass(frozen=True)
class Request:
    """What was asked, and of whom, for messages."""

    method: str
    url: str
    server: str
    """As a person knows it: "https://10.0.0.1:6443 (context prod)"."""
    watching: bool = False

    def parts(self) -> Mapping[str, str]:
        """Return group, version, namespace, plural, name and part of the address; "" if absent."""
        found = _PATH.search(self.url.partition("?")[0])
        return {key: value or "" for key, value in found.groupdict().items()} if found else {}

    def right(self) -> str:
        """Return the right that the request needs, as `kubectl auth can-i` takes it."""
        parts = self.parts()
        if not parts:
            return f"{self.method.lower()} {self.url.removeprefix(self.server.split(' ')[0])}"
        verb = _VERBS.get(self.method) or ("get" if parts["name"] else "list")
        what = parts["plural"] + (f".{parts['group']}" if parts["group"] else "")
        what += f" --subresource={parts['part']}" if parts["part"] else ""
        where = f" -n {parts['namespace']}" if parts["namespace"] else ""
        return f"{'watch' if self.watching else verb} {what}{where}"


def refusal(request: Request, status: int, body: str) -> ClusterError:
    """Return the error of an answer whose status is not 2xx; `body` is a Status as JSON, or not."""
    answer = _status_of(body)
    message = str(answer.get("message") or _told(body) or "no message")[:1000]
    reason = answer.get("reason", "")
    lead = f"{request.server}: "
    if status == 401:
        return NotAuthenticated(lead + _EXPIRED)
    if status == 403 and "exceeded quota" in message:
        return QuotaExceeded(f"{lead}{message}; fix: wait until others end, or raise the quota.")
    if status == 403:
        return _forbidden(request, message)
    if status == 404 and (not answer or _NO_SUCH_KIND in message):
        return missing_kind(request)
    kinds: dict[int, type[ClusterError]] = {
        400: Invalid,
        404: Absent,
        409: Taken if reason == "AlreadyExists" else Changed,
        410: Expired,
        422: Invalid,
    }
    if status in kinds:
        return kinds[status](lead + message)
    made = NoAnswer if status in (408, 429, 500, 502, 503, 504) else ClusterError
    error = made(f"{lead}answers {status}: {message}{_later(status)}")
    error.status = status
    return error


def silence(request: Request, error: Exception) -> ClusterError:
    """Return the error of a request that got no whole answer: `error` is of urllib3, ssl or OS."""
    text = str(error)
    for sign, explained in _SILENCES:
        if re.search(sign, text) or re.search(sign, type(error).__name__):
            return NoAnswer(f"{request.server}: {explained}")
    short = text.strip().splitlines()[-1][:300] if text.strip() else ""
    return NoAnswer(f"{request.server}: no answer ({type(error).__name__}: {short}).")


_NO_SUCH_KIND = "could not find the requested resource"
_EXPIRED = (
    "the credentials have expired or are not accepted (401); fix: log in to the cluster again, "
    "and see that 'kubectl auth whoami' works in the same context."
)

_SILENCES = (
    (
        "certificate is not yet valid",
        "its certificate is not valid yet by this machine's clock; fix: set the clock "
        "(timedatectl set-ntp true), or wait if the certificate was just made.",
    ),
    (
        "certificate has expired",
        "its certificate has expired by this machine's clock; fix: check the clock (date -u), "
        "then renew the certificate (kubeadm: kubeadm certs renew all).",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        "its certificate is not signed by the CA in the kubeconfig; fix: fetch the kubeconfig "
        "again, or correct its certificate-authority-data.",
    ),
    (
        "WRONG_VERSION_NUMBER|wrong version number",
        "does not speak TLS; fix: the kubeconfig's server address needs http:// or another port.",
    ),
    (
        "NameResolutionError|Failed to resolve|Name or service not known",
        "the name can't be resolved; fix: check the kubeconfig's server address, DNS and VPN.",
    ),
    (
        "Connection refused",
        "refuses connections; fix: start the cluster or its tunnel, and check the server's port.",
    ),
    (
        "ConnectTimeout|timed out|ReadTimeout",
        "does not answer in time; fix: check VPN, firewall and proxy, then try again.",
    ),
    (
        "ProtocolError|IncompleteRead|InvalidChunkLength|Connection aborted|RemoteDisconnected"
        "|Connection broken|ConnectionReset",
        "the connection broke off before the answer was whole; fix: try again.",
    ),
)


def _told(body: str) -> str:
    """Return what an answer says that is no Status: of a service behind the API, or a proxy."""
    try:
        value = json.loads(body)
    except ValueError:
        return body.strip()
    found = value.get("message") or value.get("error") if isinstance(value, dict) else None
    return str(found or body).strip()


def _later(status: int) -> str:
    return "; it has too much to do, try again later." if status == 429 else "; try again later."


def _forbidden(request: Request, message: str) -> ClusterError:
    if "system:anonymous" in message:
        return NotAuthenticated(
            f"{request.server}: no credentials were sent, the API took us for nobody; fix: log in "
            "again: the kubeconfig's user has none, or the command that gets them failed."
        )
    right = request.right()
    return NotAllowed(
        f"{request.server}: {message}; fix: ask an administrator for this right "
        f"(kubectl auth can-i {right})."
    )


def missing_kind(request: Request) -> ClusterError:
    """Return the error of a request for a kind that the cluster does not serve."""
    parts = request.parts()
    if not parts:
        return Absent(f"{request.server}: {request.url} is not there (404).")
    group, plural = parts["group"], parts["plural"]
    error = f"{request.server}: does not know {plural} in {group or 'core'}/{parts['version']}: "
    provider = PROVIDERS.get(group)
    if provider is None:
        return KindMissing(f"{error}install what brings the CRD {plural}.{group}.")
    return KindMissing(
        f"{error}the CRD {plural}.{group} of {provider.name} is not installed (or is of another "
        f"version); fix: {provider.install}"
    )


def _status_of(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.get("kind") == "Status" else {}
