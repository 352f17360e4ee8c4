"""Sections of a run's page that come from its record: mixture, certificates, links, attempts."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any
from urllib.parse import quote

from components.registry import Registry, Version
from components.runtime.record import RunRecord
from vila_core.store import Store
from vila_ops.run_index import finite
from vila_ops.view import RunView, TaskView
from vila_ops.web.records import read_json

MOST_CORPORA = 200
MOST_CERTIFICATES = 50
REMOTE_SECONDS = 15.0

_listed: dict[str, tuple[float, tuple[Version, ...]]] = {}


@dataclass(frozen=True)
class Corpus:
    """A corpus of a mixture: shares that were asked for and that were met; None while unknown."""

    name: str
    asked: float | None
    tokens: float | None
    supervised: float | None
    epochs: float | None


@dataclass(frozen=True)
class Mixture:
    """The mixture of a training task, and what its weights count."""

    task: str
    by: str
    corpora: tuple[Corpus, ...]


def mixtures(view: RunView) -> list[Mixture]:
    """Return the mixture of each task that has one."""
    return [found for task in view.tasks if (found := _mixture(view, task)) is not None]


def _mixture(view: RunView, task: TaskView) -> Mixture | None:
    config = view.config.get(task.name.replace("-", "_")) or view.config.get(task.name)
    asked = config.get("mixture") if isinstance(config, Mapping) else None
    if not isinstance(asked, Mapping) or not asked:
        return None
    weights = {str(name): finite(weight) or 0.0 for name, weight in asked.items()}
    total = fsum(weights.values()) or 1.0
    real = {name.partition("/")[2] for name in task.metrics if name.startswith("tokens_share/")}
    names = [*weights, *sorted(real - weights.keys())][:MOST_CORPORA]
    corpora = tuple(
        Corpus(
            name,
            weights[name] / total if name in weights else None,
            *(
                finite(task.metrics.get(f"{what}/{name}"))
                for what in ("tokens_share", "supervised_share", "epochs")
            ),
        )
        for name in names
    )
    by = config.get("mixture_by") if isinstance(config, Mapping) else ""
    return Mixture(task.name, str(by or "tokens"), corpora)


@dataclass(frozen=True)
class Certificate:
    """A proof that was made of a run: `vila verify resume` or `vila verify parity`."""

    kind: str
    task: str
    equal: bool
    text: str
    made_at: str


def certificates(store: Store, run_id: str) -> list[Certificate]:
    """Return the certificates of a run. One that can't be read is told as such."""
    found = []
    lead = f"runs/{run_id}/certificates/"
    for key in sorted(store.list(lead))[:MOST_CERTIFICATES]:
        value = read_json(store, key)
        if not isinstance(value, dict) or not isinstance(value.get("equal"), bool):
            found.append(Certificate(key[len(lead) :], "", False, "it can't be read", ""))
            continue
        found.append(
            Certificate(
                str(value.get("kind", "")),
                str(value.get("task", "")),
                value["equal"],
                _told(value),
                str(value.get("made_at", "")),
            )
        )
    return found


def _told(value: Mapping[str, Any]) -> str:
    if value.get("kind") == "resume":
        text = (
            f"resumed from step {value.get('resumed_from')}, compared at step "
            f"{value.get('compared_at')} with {value.get('against')}"
        )
        if value.get("code_changed_since"):
            text += "; the code has changed since the run"
    else:
        other = value.get("against")
        text = (
            f"compared with {other.get('run_id') if isinstance(other, Mapping) else 'another run'}"
        )
    different = value.get("differences")
    if isinstance(different, Sequence) and different:
        text += f"; {len(different)} differences"
    return text


@dataclass(frozen=True)
class Link:
    """Where else a run can be seen: `url`, or a command or place where there is none."""

    name: str
    text: str
    url: str = ""


@dataclass(frozen=True)
class Cluster:
    """Where a run was submitted to; `url` leads to it in Kubeflow Pipelines, if there is one."""

    name: str
    namespace: str
    url: str


def cluster(store: Store, run_id: str) -> Cluster | None:
    """Return the cluster of a run; None for one that ran without."""
    about = read_json(store, f"runs/{run_id}/cluster.json")
    if not isinstance(about, dict):
        return None
    kfp = about.get("kfp")
    url = str(kfp.get("url") or "") if isinstance(kfp, dict) else ""
    return Cluster(str(about.get("cluster", "")), str(about.get("namespace", "")), web_url(url))


def web_url(url: str) -> str:
    """Return an address that a page may lead to; empty for any other."""
    return url if url.startswith(("https://", "http://")) else ""


def links(store: Store, view: RunView, on_cluster: Cluster | None) -> list[Link]:
    """Return where else a run can be seen."""
    found = []
    if on_cluster is not None and on_cluster.url:
        found.append(Link("Kubeflow Pipelines", "the run", on_cluster.url))
    tracking = view.config.get("tracking")
    if isinstance(tracking, Mapping):
        found += _wandb(store, view, tracking)
    found.append(_files(store, view.run_id))
    return found


def _wandb(store: Store, view: RunView, tracking: Mapping[str, Any]) -> list[Link]:
    project = str(tracking.get("project") or "")
    if tracking.get("wandb") == "offline":
        folder = store.local_path(f"runs/{view.run_id}/tasks")
        where = str(folder) if folder is not None else f"{store.uri}/runs/{view.run_id}/tasks"
        return [Link("W&B", f"offline; send it: wandb sync {where}/*/*/wandb/offline-run-*")]
    if tracking.get("wandb") != "online":
        return []
    base = web_url(os.environ.get("WANDB_BASE_URL", "https://wandb.ai").rstrip("/"))
    entity = os.environ.get("WANDB_ENTITY", "")
    if not (base and entity):
        return [Link("W&B", f"online, project {project}, group {view.run_id}")]
    place = "/".join(quote(part, safe="") for part in (entity, project, "groups", view.run_id))
    return [Link("W&B", f"{entity}/{project}", f"{base}/{place}")]


def _files(store: Store, run_id: str) -> Link:
    """Return where the record lies; VILA_MINIO_CONSOLE leads to it in MinIO's console."""
    place = f"{store.uri}/runs/{run_id}"
    console = web_url(os.environ.get("VILA_MINIO_CONSOLE", "").rstrip("/"))
    if console and store.uri.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        return Link("MinIO", place, f"{console}/browser/{quote(bucket)}/{quote(prefix)}/")
    return Link("store", place)


def versions_of(store: Store, run_id: str) -> list[Version]:
    """Return the versions in the registry that were made of a run.

    A bucket is asked for its versions every 15 s at most.
    """
    if store.local_path("") is not None:
        return [version for version in _versions(store) if version.run_id == run_id]
    at, found = _listed.get(store.uri, (-math.inf, ()))
    if time.monotonic() - at > REMOTE_SECONDS:
        found = _versions(store)
        _listed[store.uri] = (time.monotonic(), found)
    return [version for version in found if version.run_id == run_id]


def _versions(store: Store) -> tuple[Version, ...]:
    registry = Registry(store)
    return tuple(version for model in registry.models() for version in registry.versions(model))


@dataclass(frozen=True)
class Try:
    """One attempt at a task."""

    number: int
    started_at: str
    host: str
    status: str
    duration_s: float | None
    exit_code: int | None
    error: str


def tries(record: RunRecord, task: str) -> list[Try]:
    """Return the attempts at a task, the latest first."""
    found = []
    for one in reversed(record.tasks.get(task, ())[-50:]):
        ended = one.finished or {}
        error = ended.get("error")
        found.append(
            Try(
                one.number,
                str(one.started.get("started_at", "")),
                str(one.started.get("host", "")),
                str(ended.get("status") or "no end is recorded"),
                finite(ended.get("duration_s")),
                ended.get("exit_code") if isinstance(ended.get("exit_code"), int) else None,
                str(error.get("message", "")) if isinstance(error, Mapping) else "",
            )
        )
    return found


def compact(value: object) -> str:
    """Return a value as one line of JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:199]}…"
