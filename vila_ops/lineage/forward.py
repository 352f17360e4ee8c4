"""Forward: from anything to who uses it: tasks, runs, versions, and the aliases of then and now."""

from __future__ import annotations

from collections.abc import Iterator

from components.registry import Registry
from vila_ops.lineage.facts import AttemptFacts, RunFacts, VersionFacts
from vila_ops.lineage.graph import MOST_FROM_ONE, MOST_NODES, Graph, Step, walk
from vila_ops.lineage.index import Facts, LineageIndex
from vila_ops.lineage.nodes import (
    attempt_of,
    corpus_parts,
    describe,
    shards_of,
    task_id,
    version_of,
)

_USES_ALL = ("prepare", "merge")
"""Stages that take all corpora of their data, whatever mixture others ask for."""


def trace_forward(index: LineageIndex, root: str, most: int = MOST_NODES) -> Graph:
    """Return all that a node is used in, near and far. Raises StoreError."""

    def steps(node_id: str, run: str) -> Iterator[Step | int]:
        kind, _, value = node_id.partition(":")
        found = _STEPS.get(kind)
        return found(index, value) if found else iter(())

    def told(node_id: str, run: str):
        return describe(index, node_id, run)

    return walk(root, forward=True, describe=told, steps=steps, most=most)


def _records(index: LineageIndex, digest: str) -> Iterator[Facts | int]:
    """Yield the records that hold a digest, newest first, and how many more there may be."""
    keys = index.holding(digest)
    runs = [key for key in keys if key.startswith("runs/")]
    others = keys[len(runs) :]
    for part in (others, runs):  # of versions there are few, and they matter most
        for key in part[: 4 * MOST_FROM_ONE]:
            found = index.facts(key)
            if found is not None:
                yield found
    left = sum(max(0, len(part) - 4 * MOST_FROM_ONE) for part in (others, runs))
    if left:
        yield left


def _artifact(index: LineageIndex, value: str) -> Iterator[Step | int]:
    for found in _records(index, value):
        if isinstance(found, int):
            yield found
        elif isinstance(found, RunFacts):
            for one in found.attempts:
                if value in one.inputs.values() and _stands_alone(index, one):
                    names = [name for name, sha256 in one.inputs.items() if sha256 == value]
                    yield Step(task_id(found.run_id, one), ", ".join(names), found.run_id)
        elif isinstance(found, VersionFacts):
            for label in ("artifact", "results", "baseline"):
                if getattr(found, label) == value:
                    label = "model" if label == "artifact" else label
                    yield Step(f"version:{found.name}", label, found.run_id)


def _stands_alone(index: LineageIndex, one: AttemptFacts) -> bool:
    """Return whether no other recorded task stands for an attempt that came from the cache."""
    return not one.cached_from or index.run(one.cached_from) is None


def _task(index: LineageIndex, value: str) -> Iterator[Step | int]:
    known = attempt_of(index, value)
    if known is None:
        return
    run, one = known
    for name, sha256 in one.outputs.items():
        yield Step(f"artifact:{sha256}", name, run.run_id)
    if not one.key:
        return
    for found in _records(index, one.key):
        if isinstance(found, int):
            yield found
        elif isinstance(found, VersionFacts) and found.key == one.key:
            yield Step(f"version:{found.name}", "registered", run.run_id)
        elif isinstance(found, RunFacts) and not one.cached_from:
            for other in found.attempts:
                if other.key == one.key and other.cached_from == run.run_id:
                    yield Step(task_id(found.run_id, other), "reused from the cache", found.run_id)


def _run(index: LineageIndex, value: str) -> Iterator[Step | int]:
    found = index.run(value)
    for one in found.latest.values() if found else ():
        yield Step(task_id(value, one), "task", value)
    for version in _records_of_run(index, value):
        yield Step(f"version:{version.name}", "registered", value)


def _records_of_run(index: LineageIndex, run_id: str) -> Iterator[VersionFacts]:
    """Yield the versions of a run; through its artifacts where it has a record."""
    run = index.run(run_id)
    seen = set()
    digests = [sha256 for one in run.attempts for sha256 in one.outputs.values()] if run else []
    for sha256 in dict.fromkeys(digests):
        for found in _records(index, sha256):
            if isinstance(found, VersionFacts) and found.run_id == run_id:
                if found.name not in seen:
                    yield found
                seen.add(found.name)


def _version(index: LineageIndex, value: str) -> Iterator[Step | int]:
    found = version_of(index, value)
    if found is None:
        return
    stood = [
        entry.alias
        for entry in Registry(index.store).history(found.model)
        if entry.moves and entry.alias and entry.version == found.number
    ]
    for alias in dict.fromkeys(stood):
        now = Registry(index.store).aliases(found.model).get(alias) == found.number
        label = "stands at it now" if now else "stood at it before"
        yield Step(f"alias:{found.model}@{alias}", label)


def _shard(index: LineageIndex, value: str) -> Iterator[Step | int]:
    for facts, corpus, _ in shards_of(index, value):
        yield Step(f"corpus:{facts.sha256}/{corpus.name}", "shard of")


def _corpus(index: LineageIndex, value: str) -> Iterator[Step | int]:
    """Yield who draws from a corpus; by its name alone, from any corpus of that name."""
    data, name = corpus_parts(value)
    if not data:
        for facts in index.all_data():
            if any(corpus.name == name for corpus in facts.corpora):
                yield Step(f"corpus:{facts.sha256}/{name}", "prepared as")
        yield from _outside(index, name)
        return
    for found in _records(index, data):
        if isinstance(found, int):
            yield found
        elif isinstance(found, RunFacts):
            for one in found.attempts:
                takes = data in one.inputs.values() and not one.data
                asked = name in one.mixture or (not one.mixture and one.stage in _USES_ALL)
                if takes and asked and _stands_alone(index, one):
                    yield Step(task_id(found.run_id, one), "drawn from", found.run_id)


def _outside(index: LineageIndex, name: str) -> Iterator[Step | int]:
    """Yield the tasks that draw from a corpus of this name that lies elsewhere."""
    for run_id in reversed(index.run_ids()):
        found = index.run(run_id) if index.mentions(f"runs/{run_id}", name) else None
        for one in found.attempts if found else ():
            if one.data and name in one.mixture and _stands_alone(index, one):
                yield Step(task_id(run_id, one), "drawn from", run_id)


def _digest(index: LineageIndex, value: str) -> Iterator[Step | int]:
    """Yield the runs and tasks with a digest of config or code."""
    for found in _records(index, value):
        if isinstance(found, int):
            yield found
        elif isinstance(found, RunFacts):
            if value in (found.config, found.code, found.revision):
                yield Step(f"run:{found.run_id}", "run", found.run_id)
            for one in found.attempts:
                if value in (one.config, one.code):
                    yield Step(task_id(found.run_id, one), "task", found.run_id)


def _dvc(index: LineageIndex, value: str) -> Iterator[Step | int]:
    for found in _records(index, value):
        if isinstance(found, int):
            yield found
        elif isinstance(found, RunFacts):
            places = [place for place, one in found.dvc.items() if one.get("md5") == value]
            for one in found.latest.values():
                if any(place.partition(".")[0] == one.task.replace("-", "_") for place in places):
                    yield Step(task_id(found.run_id, one), "data version", found.run_id)


_STEPS = {
    "artifact": _artifact,
    "task": _task,
    "run": _run,
    "version": _version,
    "shard": _shard,
    "corpus": _corpus,
    "config": _digest,
    "code": _digest,
    "commit": _digest,
    "dvc": _dvc,
}
