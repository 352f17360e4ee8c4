"""Backward: from anything to all that it was made from."""

from __future__ import annotations

from collections.abc import Iterator

from vila_core.jsonio import digest
from vila_ops.lineage.facts import AttemptFacts, RunFacts, VersionFacts
from vila_ops.lineage.graph import MOST_NODES, Graph, Step, walk
from vila_ops.lineage.index import LineageIndex
from vila_ops.lineage.nodes import (
    attempt_of,
    corpus_parts,
    describe,
    recorded,
    task_id,
    version_of,
)

MOST_SHARDS = 8
"""Shards of a corpus that are nodes of their own; the manifest names all."""
MOST_MAKERS = 400
"""Records that are looked through for who made an artifact."""


def trace_back(index: LineageIndex, root: str, most: int = MOST_NODES) -> Graph:
    """Return all that a node was made from. Raises StoreError."""

    def steps(node_id: str, run: str) -> Iterator[Step | int]:
        kind, _, value = node_id.partition(":")
        found = _STEPS.get(kind)
        return found(index, value, run) if found else iter(())

    def told(node_id: str, run: str):
        return describe(index, node_id, run)

    return walk(root, forward=False, describe=told, steps=steps, most=most)


def _version(index: LineageIndex, value: str, run: str) -> Iterator[Step | int]:
    found = version_of(index, value)
    if found is None:
        return
    parts = (("model", found.artifact), ("results", found.results), ("baseline", found.baseline))
    for label, sha256 in parts:
        if sha256:
            yield Step(f"artifact:{sha256}", label, found.run_id)


def _run(index: LineageIndex, value: str, run: str) -> Iterator[Step | int]:
    found = index.run(value)
    for one in found.latest.values() if found else ():
        yield Step(task_id(value, one), "task", value)


def _task(index: LineageIndex, value: str, run: str) -> Iterator[Step | int]:
    known = attempt_of(index, value)
    if known is None:
        run_id, _, rest = value.partition("/")
        entry = recorded(index, run_id, rest.rpartition("/")[0])
        for name, sha256 in entry["inputs"].items() if entry else ():
            yield Step(f"artifact:{sha256}", name, run_id)
        return
    found, one = known
    maker = _origin(index, one)
    if maker is not None:
        yield Step(maker, "from the cache", one.cached_from)
        return
    for name, sha256 in one.inputs.items():
        yield Step(f"artifact:{sha256}", name, found.run_id)
    for place, version in found.dvc.items():
        if place.partition(".")[0] == one.task.replace("-", "_"):
            yield Step(f"dvc:{version.get('md5') or digest(version)}", "data version")
    if one.data:
        for name in one.mixture:
            yield Step(f"corpus:{name}", "corpus")


def _origin(index: LineageIndex, one: AttemptFacts) -> str | None:
    """Return the task that made what an attempt took from the cache, if it is still recorded."""
    run = index.run(one.cached_from) if one.cached_from else None
    for other in reversed(run.attempts if run else ()):
        if other.key == one.key and not other.cached_from and other.outputs:
            return task_id(one.cached_from, other)
    return None


def _artifact(index: LineageIndex, value: str, run: str) -> Iterator[Step | int]:
    maker = maker_of(index, value, run)
    if maker is not None:
        yield Step(maker[0], "made by", maker[1])
    facts = index.data(value) or index.learn_data(value)
    for corpus in facts.corpora if facts else ():
        yield Step(f"corpus:{value}/{corpus.name}", "corpus")


def maker_of(index: LineageIndex, sha256: str, run: str) -> tuple[str, str] | None:
    """Return the task that made an artifact, and its run: of this run, else who computed it."""
    here = index.run(run) if run else None
    for one in reversed(here.attempts if here else ()):
        if sha256 in one.outputs.values():
            return task_id(run, one), run
    best: tuple[str, str] | None = None
    for key in index.holding(sha256)[:MOST_MAKERS]:
        found = index.facts(key)
        if isinstance(found, RunFacts):
            for one in found.attempts:
                if sha256 in one.outputs.values():
                    best = best or (task_id(found.run_id, one), found.run_id)
                    if not one.cached_from:
                        return task_id(found.run_id, one), found.run_id
        elif isinstance(found, VersionFacts) and best is None:
            for task, entry in found.tasks.items():
                if sha256 in entry["outputs"].values():
                    best = f"task:{found.run_id}/{task}/0", found.run_id
    return best


def _corpus(index: LineageIndex, value: str, run: str) -> Iterator[Step | int]:
    data, name = corpus_parts(value)
    facts = index.data(data) if data else None
    for corpus in facts.corpora if facts else ():
        if corpus.name == name:
            for shard in corpus.shards[:MOST_SHARDS]:
                yield Step(f"shard:{shard.sha256}", "shard")
            if len(corpus.shards) > MOST_SHARDS:
                yield len(corpus.shards) - MOST_SHARDS


def _alias(index: LineageIndex, value: str, run: str) -> Iterator[Step | int]:
    from components.registry import Registry

    model, _, alias = value.partition("@")
    number = Registry(index.store).aliases(model).get(alias)
    if number is not None:
        yield Step(f"version:{model}@{number}", "stands at")


_STEPS = {
    "version": _version,
    "run": _run,
    "task": _task,
    "artifact": _artifact,
    "corpus": _corpus,
    "alias": _alias,
}
