"""What is told of each node: its title and details, from the index."""

from __future__ import annotations

from collections.abc import Iterator

from components.registry import Registry
from vila_core.errors import Damaged, UserError
from vila_ops.lineage.facts import MALFORMED, AttemptFacts, RunFacts, VersionFacts
from vila_ops.lineage.graph import Detail, Node
from vila_ops.lineage.index import LineageIndex

SHORT = 12
"""Digits of a digest that are shown."""


def describe(index: LineageIndex, node_id: str, run: str = "") -> Node:
    """Return a node; one that nothing is known of has a note. `run` is where it was reached."""
    kind, _, value = node_id.partition(":")
    made = _MAKERS.get(kind)
    return made(index, node_id, value, run) if made else Node(node_id, value)


def attempt_of(index: LineageIndex, value: str) -> tuple[RunFacts, AttemptFacts] | None:
    """Return the run and attempt of `RUN/TASK/NUMBER`."""
    run_id, _, rest = value.partition("/")
    task, _, number = rest.rpartition("/")
    run = index.run(run_id)
    for one in run.attempts if run else ():
        if one.task == task and str(one.number) == number:
            return (run, one) if run else None
    return None


def task_id(run_id: str, one: AttemptFacts) -> str:
    """Return the node of an attempt."""
    return f"task:{run_id}/{one.task}/{one.number}"


def version_of(index: LineageIndex, value: str) -> VersionFacts | None:
    """Return the version of `model@number`."""
    model, _, number = value.partition("@")
    return index.version(model, int(number)) if number.isdecimal() else None


def corpus_parts(value: str) -> tuple[str, str]:
    """Return the digest (may be empty) and the name of `SHA256/NAME` or `NAME`."""
    data, _, name = value.rpartition("/")
    return data, name


def _version(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    found = version_of(index, value)
    if found is None:
        return Node(node_id, value, missing=True, note="its record is gone or can't be read")
    details = [Detail("run", found.run_id, f"run:{found.run_id}")]
    details += [Detail("alias", text) for text in standing(index, found)]
    details.append(Detail("registered", found.created_at))
    gone = index.run(found.run_id) is None
    note = f"the record of run {found.run_id} is gone" if gone and found.run_id else ""
    return Node(node_id, value, tuple(details), note=note)


def standing(index: LineageIndex, version: VersionFacts) -> list[str]:
    """Return the aliases that stand at a version; none where the history is damaged."""
    try:
        aliases = Registry(index.store).aliases(version.model)
    except (Damaged, UserError, *MALFORMED):
        return []
    return sorted(alias for alias, number in aliases.items() if number == version.number)


def _alias(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    return Node(node_id, value)


def _run(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    found = index.run(value)
    if found is None:
        return Node(node_id, value, missing=True, note="its record is gone or can't be read")
    details = [
        Detail("recipe", found.recipe),
        Detail("started", found.created_at),
        Detail("config", found.config, f"config:{found.config}"),
        Detail("code", found.code, f"code:{found.code}"),
    ]
    if found.revision:
        details.append(Detail("git revision", found.revision, f"commit:{found.revision}"))
    return Node(node_id, value, tuple(details))


def _task(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    known = attempt_of(index, value)
    if known is None:
        return _recorded(index, node_id, value)
    found, one = known
    details = [
        Detail("status", one.status or "not ended"),
        Detail("run", found.run_id, f"run:{found.run_id}"),
    ]
    if one.config:
        details.append(Detail("config", one.config, f"config:{one.config}"))
    if one.code:
        details.append(Detail("code", one.code, f"code:{one.code}"))
    if found.revision:
        details.append(Detail("git revision", found.revision, f"commit:{found.revision}"))
    if one.key:
        details.append(Detail("key", one.key))
    if one.mixture:
        details.append(Detail("mixture", ", ".join(one.mixture)))
    if one.data:
        details.append(Detail("data", one.data))
    note = ""
    if one.cached_from:
        note = f"taken from the cache: run {one.cached_from} made it"
        if index.run(one.cached_from) is None:
            note += ", whose record is gone"
    attempt = f" (attempt {one.number})" if one.number > 1 else ""
    return Node(node_id, f"{one.task}{attempt}", tuple(details), note=note)


def _recorded(index: LineageIndex, node_id: str, value: str) -> Node:
    """Return a task of a run that is gone, as a version made from it remembers it."""
    run_id, _, rest = value.partition("/")
    task = rest.rpartition("/")[0]
    entry = recorded(index, run_id, task)
    if entry is None:
        return Node(node_id, value, missing=True, note="its record is gone")
    details = (
        Detail("run", run_id, f"run:{run_id}"),
        Detail("config", entry["config"], f"config:{entry['config']}"),
        Detail("code", entry["code"], f"code:{entry['code']}"),
        Detail("key", entry["key"]),
    )
    note = f"run {run_id} is gone; a version made from it tells this"
    return Node(node_id, task, details, missing=True, note=note)


def recorded(index: LineageIndex, run_id: str, task: str) -> dict | None:
    """Return what a version says of a task of its run."""
    for name in index.version_names():
        found = version_of(index, name)
        if found is not None and found.run_id == run_id and task in found.tasks:
            return dict(found.tasks[task])
    return None


def _artifact(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    here = index.exists(value)
    note = "" if here else "it is not in the store any more"
    return Node(node_id, value[:SHORT], (Detail("sha256", value),), missing=not here, note=note)


def _corpus(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    data, name = corpus_parts(value)
    facts = index.data(data) if data else None
    for one in facts.corpora if facts else ():
        if one.name == name:
            details = (
                Detail("source", one.format or "not told"),
                Detail("licence", one.licence or "not told"),
                Detail("samples", f"{one.samples:,}"),
                Detail("images", f"{one.images:,}"),
                Detail("text tokens", f"{one.text_tokens:,}"),
                Detail("shards", f"{len(one.shards):,}"),
                Detail("manifest", one.manifest),
                Detail("index", one.index),
            )
            return Node(node_id, name, details)
    if data:
        return Node(node_id, name, missing=True, note="its manifest is gone")
    known = sum(name == one.name for facts in index.all_data() for one in facts.corpora)
    note = f"prepared {known} times in this store" if known > 1 else ""
    return Node(node_id, name, note=note if known else "it lies outside of this store's artifacts")


def _shard(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    for facts, corpus, shard in shards_of(index, value):
        details = (
            Detail("sha256", value),
            Detail("samples", f"{shard.samples:,}"),
            Detail("bytes", f"{shard.size:,}"),
            Detail("corpus", corpus.name, f"corpus:{facts.sha256}/{corpus.name}"),
        )
        return Node(node_id, shard.path, details)
    return Node(node_id, value[:SHORT], missing=True, note="no manifest in this store names it")


def shards_of(index: LineageIndex, sha256: str) -> Iterator:
    """Yield (data, corpus, shard) of each place where a shard lies."""
    for facts in index.all_data():
        for corpus in facts.corpora:
            for shard in corpus.shards:
                if shard.sha256 == sha256:
                    yield facts, corpus, shard


def _dvc(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    for key in index.holding(value):
        found = index.facts(key)
        for version in found.dvc.values() if isinstance(found, RunFacts) else ():
            if version.get("md5") == value:
                kept = ("path", "git_rev", "md5", "size", "nfiles", "remote")
                details = [Detail(name, version[name]) for name in kept if version.get(name)]
                title = f"{version.get('path', value)}@{version.get('git_rev', '')[:SHORT]}"
                return Node(node_id, title, tuple(details))
    return Node(node_id, value)


def _digest(index: LineageIndex, node_id: str, value: str, run: str) -> Node:
    return Node(node_id, value[:SHORT], (Detail("sha256", value),))


_MAKERS = {
    "version": _version,
    "alias": _alias,
    "run": _run,
    "task": _task,
    "artifact": _artifact,
    "corpus": _corpus,
    "shard": _shard,
    "dvc": _dvc,
    "config": _digest,
    "code": _digest,
}
