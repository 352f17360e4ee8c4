"""What lineage needs of a record, and no more: of a run, a version of a model, prepared data.

Records hold far more (every source file's digest, curves, metrics). These few values are made from
them once and kept in the index; whatever can't be read raises one of `MALFORMED`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.registry import records
from components.runtime.record import Attempt, RunRecord
from vila_core.errors import NotFound
from vila_core.jsonio import digest
from vila_core.store import Store

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What foreign JSON leads to."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """One attempt of a task. `inputs` and `outputs` are artifacts (sha256) by name.

    A model of the store that an evaluation's config names is an input too.
    """

    task: str
    number: int
    stage: str
    status: str  # as it ended; "" where it has not
    ended_at: str  # "" where it has not
    key: str
    config: str  # digest
    code: str  # digest
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    cached_from: str  # the run that made it; "" where it was computed
    data: str  # where its corpora lie, if not in the input `data`
    mixture: tuple[str, ...]  # corpora that it draws from


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run and its attempts. `dvc` are versions of data, by the setting that named them."""

    run_id: str
    name: str
    recipe: str
    created_at: str
    config: str
    code: str
    revision: str  # git's, where the images of the run tell it
    dvc: Mapping[str, Mapping[str, str]]
    attempts: tuple[AttemptFacts, ...]

    @property
    def latest(self) -> dict[str, AttemptFacts]:
        """The attempt of each task that counts: the last one with a result, else the last."""
        found: dict[str, AttemptFacts] = {}
        for one in self.attempts:
            known = found.get(one.task)
            if known is None or one.outputs or not known.outputs:
                found[one.task] = one
        return found


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """A version of a model, with the tasks behind it as it keeps them itself."""

    model: str
    number: int
    run_id: str
    key: str
    created_at: str
    created_by: str
    artifact: str
    results: str
    baseline: str
    tasks: Mapping[str, Mapping[str, Any]]  # as `lineage.tasks` of the version

    @property
    def name(self) -> str:
        """`model@number`."""
        return f"{self.model}@{self.number}"


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """A shard of a corpus."""

    path: str
    sha256: str
    samples: int
    size: int


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """A prepared corpus, as its manifest tells it."""

    name: str
    format: str
    licence: str
    samples: int
    images: int
    text_tokens: int
    index: str  # sha256
    manifest: str  # sha256
    shards: tuple[ShardFacts, ...]


@dataclass(frozen=True, slots=True)
class DataFacts:
    """An artifact of prepared data."""

    sha256: str
    corpora: tuple[CorpusFacts, ...] = field(default=())


def read_run(store: Store, run_id: str) -> RunFacts:
    """Read a run. Raises NotFound, or one of MALFORMED."""
    record = RunRecord.load(store, run_id)
    run = record.run
    return RunFacts(
        run_id=run_id,
        name=_text(run["name"]),
        recipe=_text(run["recipe"]),
        created_at=_text(run["created_at"]),
        config=_text(run["config_digest"]),
        code=_text(run["code_digest"]),
        revision=_revision(store, run_id, str(run.get("runner"))),
        dvc={_text(place): _words(version) for place, version in (run.get("dvc") or {}).items()},
        attempts=tuple(_attempt(one) for attempts in record.tasks.values() for one in attempts),
    )


def read_version(store: Store, model: str, number: int) -> VersionFacts:
    """Read a version. Raises NotFound, Damaged, or one of MALFORMED."""
    place = f"registry/{model}/versions/{number}.json"
    value = records.read_version(store.read(place), place, model, number)
    lineage = value.lineage
    given = (lineage.get("register") or {}).get("inputs") or {}
    return VersionFacts(
        model=model,
        number=number,
        run_id=value.run_id,
        key=value.key,
        created_at=value.created_at,
        created_by=value.created_by,
        artifact=value.artifact.sha256,
        results=_text(value.results or given.get("results") or ""),
        baseline=_text(value.baseline or given.get("baseline") or ""),
        tasks={
            _text(task): {
                "stage": _text(entry["stage"]),
                "key": _text(entry["key"]),
                "config": _text(entry["config_digest"]),
                "code": _text(entry["code_digest"]),
                "inputs": _words(entry["inputs"]),
                "outputs": _words(entry["outputs"]),
            }
            for task, entry in (lineage.get("tasks") or {}).items()
        },
    )


def read_data(store: Store, sha256: str) -> DataFacts:
    """Read the corpora of an artifact. Raises NotFound where it is gone, or one of MALFORMED."""
    lead = f"artifacts/{sha256}"
    files = {
        entry["path"]: entry["sha256"]
        for entry in json.loads(store.read(f"{lead}/manifest.json"))["files"]
    }
    names = [path.split("/")[1] for path in files if _is_manifest(path)]
    return DataFacts(
        sha256,
        tuple(
            _corpus(json.loads(store.read(f"{lead}/corpora/{name}/manifest.json")), name, files)
            for name in sorted(names)
        ),
    )


def to_json(facts: RunFacts | VersionFacts | DataFacts) -> dict[str, Any]:
    """Return facts as a JSON-able mapping; `from_json` reads it."""
    return {"kind": type(facts).__name__, **_plain(facts)}


def from_json(value: dict[str, Any]) -> RunFacts | VersionFacts | DataFacts:
    """Return the facts again. Raises one of MALFORMED for a foreign value."""
    kind = value.pop("kind")
    if kind == "RunFacts":
        value["attempts"] = tuple(
            AttemptFacts(**{**one, "mixture": tuple(one["mixture"])}) for one in value["attempts"]
        )
        return RunFacts(**value)
    if kind == "VersionFacts":
        return VersionFacts(**value)
    corpora = tuple(
        CorpusFacts(**{**one, "shards": tuple(ShardFacts(*shard) for shard in one["shards"])})
        for one in value["corpora"]
    )
    return DataFacts(value["sha256"], corpora)


def _attempt(one: Attempt) -> AttemptFacts:
    parts = one.started.get("key_parts") or {}
    finished = one.finished or {}
    config = one.config
    return AttemptFacts(
        task=_text(one.task),
        number=one.number,
        stage=_text(parts.get("stage") or one.started.get("stage") or ""),
        status=_text(finished.get("status") or ""),
        ended_at=_text(finished.get("ended_at") or ""),
        key=_text(one.started.get("key") or ""),
        config=digest(parts["config"]) if "config" in parts else "",
        code=_text((parts.get("code") or {}).get("digest") or ""),
        inputs=_named(parts) | _words(parts.get("inputs") or {}),
        outputs={
            _text(name): _text(ref["sha256"])
            for name, ref in (finished.get("outputs") or {}).items()
        },
        cached_from=_text((finished.get("cached_from") or {}).get("run_id") or ""),
        data=str(config.get("data") or ""),
        mixture=tuple(sorted(_text(name) for name in config.get("mixture") or ())),
    )


def _named(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return the model that `vila eval` named in a config: its key has the digest alone."""
    model = (parts.get("config") or {}).get("model")
    return {"model": model} if isinstance(model, str) and _SHA256.fullmatch(model) else {}


def _corpus(value: Mapping[str, Any], name: str, files: Mapping[str, str]) -> CorpusFacts:
    lead = f"corpora/{name}"
    return CorpusFacts(
        name=_text(name),
        format=_text(value.get("format") or ""),
        licence=_text(value.get("licence") or ""),
        samples=int(value["samples"]),
        images=int(value.get("images") or 0),
        text_tokens=int(value.get("text_tokens") or 0),
        index=_text(value.get("index_sha256") or files.get(f"{lead}/index.npz", "")),
        manifest=files.get(f"{lead}/manifest.json", ""),
        shards=tuple(
            ShardFacts(
                _text(shard["path"]),
                _text(shard["sha256"]),
                int(shard["samples"]),
                int(shard.get("size") or 0),
            )
            for shard in value["shards"]
        ),
    )


def _is_manifest(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 3 and parts[0] == "corpora" and parts[2] == "manifest.json"


def _revision(store: Store, run_id: str, runner: str) -> str:
    """Return the git revision that the images of a run were built from, if they say one."""
    if runner != "container":
        return ""
    try:
        told = json.loads(store.read(f"runs/{run_id}/containers.json"))
    except (NotFound, *MALFORMED):
        return ""
    found = {str(one.get("revision") or "") for one in _maps(told)}
    return ", ".join(sorted(found - {""}))


def _maps(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield all objects in a value, however deep."""
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from _maps(one)


def _words(value: Mapping[str, Any]) -> dict[str, str]:
    return {
        _text(name): one if isinstance(one, str) else json.dumps(one)
        for name, one in value.items()
        if one is not None
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text is needed, found {type(value).__name__}")
    value.encode()  # half of a surrogate pair is no text
    return value


def _plain(facts: Any) -> dict[str, Any]:
    found = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
    if isinstance(facts, RunFacts):
        found["attempts"] = [_plain(one) for one in facts.attempts]
    elif isinstance(facts, DataFacts):
        found["corpora"] = [
            {**_plain(one), "shards": [list(_plain(shard).values()) for shard in one.shards]}
            for one in facts.corpora
        ]
    return found
