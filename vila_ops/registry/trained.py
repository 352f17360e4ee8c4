"""How a version was trained and on what, from the record of its run and the artifacts it names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.registry import Version
from components.runtime.record import Attempt, RunRecord
from vila_core.errors import StoreError
from vila_core.store import Store, read_file, ref_of

PARTS = ("vision_tower", "projector", "language_model")
"""Of a model, as stages name what they train."""

_HUB_CACHE = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")


@dataclass(frozen=True)
class Step:
    """One task behind a version. Config and metrics are empty where the run's record is gone.

    `outside` holds, by place, the state of what was read beside the store.
    """

    task: str
    stage: str
    key: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)

    @property
    def mixture(self) -> Mapping[str, float]:
        """The share asked of each corpus."""
        return self.config.get("mixture") or {}

    @property
    def steps(self) -> int | None:
        """Optimiser steps; None where nothing was trained."""
        made = self.metrics.get("steps")
        if made is None and not self.mixture and self.config.get("source") != "miniature":
            return None
        return made or (self.config.get("train") or {}).get("steps")

    @property
    def trains(self) -> tuple[str, ...]:
        """The parts that this task trained."""
        if self.stage in ("language_model", "vision_tower"):
            return (self.stage,) if self.steps else ()
        return tuple(self.config.get("trains") or ())

    def realised(self, corpus: str) -> float | None:
        """Return the share that a corpus really had, in the mixture's own unit."""
        unit = self.config.get("mixture_by") or "tokens"
        return self.metrics.get(f"{unit}_share/{corpus}")


@dataclass(frozen=True)
class Corpus:
    """A corpus in the data of a version. `facts` are those of its manifest, if that can be read."""

    name: str
    place: str
    digest: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """All that the record knows of how a version came about."""

    run: Mapping[str, Any]
    steps: tuple[Step, ...]
    corpora: tuple[Corpus, ...]
    data: tuple[str, ...]

    @property
    def bases(self) -> dict[str, str]:
        """Return where parts that weren't trained from nothing come from, by part."""
        found = {}
        for step in self.steps:
            source = step.config.get("source")
            if step.stage in ("language_model", "vision_tower") and source not in (
                None,
                "miniature",
            ):
                found[step.stage] = str(source)
        return found

    @property
    def hub_bases(self) -> list[str]:
        """Return the Hub's names of the bases that were imported from a copy of its cache."""
        found = [_HUB_CACHE.search(source) for source in self.bases.values()]
        return [f"{match['owner']}/{match['name']}" for match in found if match]


def training(store: Store, version: Version) -> Training:
    """Return what is known of how a version was trained. A record that is gone leaves gaps."""
    try:
        record = RunRecord.load(store, version.run_id)
    except (StoreError, ValueError, KeyError, TypeError):
        record = None
    tasks = version.lineage.get("tasks") or {}
    order = [name for name, _ in record.run.get("tasks", ())] if record else sorted(tasks)
    names = [name for name in order if name in tasks]
    names += [name for name in sorted(tasks) if name not in names]
    steps = tuple(_step(name, tasks[name], record) for name in names)
    data = tuple(dict.fromkeys(_data(steps)))
    return Training(
        run=record.run if record else {},
        steps=steps,
        corpora=tuple(_corpora(store, steps, data)),
        data=data,
    )


def _step(name: str, entry: Mapping[str, Any], record: RunRecord | None) -> Step:
    attempt = _attempt(record, name, str(entry.get("key")))
    finished = (attempt.finished or {}) if attempt else {}
    return Step(
        task=name,
        stage=str(entry.get("stage")),
        key=str(entry.get("key")),
        config=attempt.config if attempt else {},
        metrics=finished.get("metrics") or {},
        inputs=entry.get("inputs") or {},
        outputs=entry.get("outputs") or {},
        outside=(attempt.started.get("key_parts") or {}).get("outside") or {} if attempt else {},
    )


def _attempt(record: RunRecord | None, task: str, key: str) -> Attempt | None:
    """Return the attempt that the lineage is of: others of the task may have had another config."""
    found = record.tasks.get(task, ()) if record else ()
    return next((one for one in reversed(found) if one.started.get("key") == key), None)


def _data(steps: tuple[Step, ...]) -> Iterator[str]:
    """Yield the artifacts (sha256) that trainings read their corpora from."""
    for step in steps:
        if step.mixture and not step.config.get("data") and "data" in step.inputs:
            yield step.inputs["data"]


def _corpora(store: Store, steps: tuple[Step, ...], data: tuple[str, ...]) -> Iterator[Corpus]:
    """Yield each corpus of the mixtures once, as its manifest describes it."""
    seen: set[tuple[str, str]] = set()
    for step in steps:
        outside = step.config.get("data")
        place = str(outside or step.inputs.get("data") or "")
        for name in step.mixture:
            if (place, name) in seen:
                continue
            seen.add((place, name))
            if outside:
                yield _outside(step, place, name)
            elif place:
                yield _inside(store, place, name)


def _inside(store: Store, sha256: str, name: str) -> Corpus:
    try:
        text = read_file(store, ref_of(store, sha256), f"corpora/{name}/manifest.json")
        facts = json.loads(text)
    except (StoreError, ValueError):
        return Corpus(name, sha256, "")
    return Corpus(name, sha256, hashlib.sha256(text).hexdigest(), facts)


def _outside(step: Step, place: str, name: str) -> Corpus:
    """Describe a corpus that is not in the store: only the record of then tells what it was."""
    state = next((state for at, state in step.outside.items() if at.endswith(f"/{name}")), None)
    return Corpus(name, place, str(state or step.outside.get(place) or ""))
