"""From a sample key to where it came from, where it lies, and which trainings saw it.

Which samples stand in which step follows from config and indexes alone, so nothing had to be noted
while training: the plan is made again and looked through.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.registry import Registry
from components.runtime.mirror import checkpoints_of, mirror_of
from components.runtime.record import Attempt, RunRecord
from components.runtime.workspace import work_folder
from vila_core.data.corpus import Corpus
from vila_core.errors import NotFound, UserError, VilaError
from vila_core.stages._training import open_corpora
from vila_core.store import Store, fetch_below, ref_of
from vila_ops.planned_data import at_hand, planned_loader
from vila_ops.recipes import stage_config
from vila_ops.run_index import RunIndex

if TYPE_CHECKING:
    from vila_core.data.loader import PackLoader

_PROCESSOR = "processor_config.json"


@dataclass(frozen=True)
class Place:
    """Where a sample lies in one prepared result."""

    data: str  # sha256 of the artifact
    run_id: str  # that prepared it
    shard: str
    offset: int  # bytes
    size: int  # bytes
    digest: str  # sha256 of the content
    text_tokens: int
    images: int
    source: str  # file and record in the corpus, from the key
    meta: Mapping[str, Any] = field(default_factory=dict)  # empty where the shards are not at hand


@dataclass(frozen=True)
class Use:
    """A training that drew a sample, up to where it has come."""

    run_id: str
    task: str
    stage: str
    key: str  # of the task
    steps_done: int
    steps: tuple[int, ...]  # in which it was drawn, counted from 1
    after: frozenset[str]  # keys of the tasks of its run that it was made from
    models: tuple[str, ...]  # registry versions made from it
    checkpoints: tuple[int, ...]  # steps of those that are kept

    @property
    def restart(self) -> int:
        """The latest kept checkpoint that has not seen the sample; 0 is the stage's start."""
        return max((step for step in self.checkpoints if step < self.steps[0]), default=0)


def places(store: Store, key: str) -> list[Place]:
    """Return where a sample lies, once per prepared result that holds it."""
    corpus_name = key.partition("/")[0]
    found = []
    for sha256, run_id in _prepared(store).items():
        corpus = _corpus(store, sha256, corpus_name)
        if corpus is None:
            continue
        try:
            number = corpus.find(key)
        except KeyError:
            continue
        index = corpus.index
        shard = corpus.manifest["shards"][int(index.shard[number])]["path"]
        _, _, rest = key.partition("/")
        file, _, record = rest.rpartition("/")
        found.append(
            Place(
                sha256,
                run_id,
                f"corpora/{corpus_name}/{shard}",
                int(index.offset[number]),
                int(index.size[number]),
                index.digest[number].tobytes().hex(),
                int(index.num_text_tokens[number]),
                int(index.num_images[number]),
                f"shard {file} of '{corpus_name}', record {int(record)}",
                _meta(corpus, number),
            )
        )
    return found


@dataclass(frozen=True)
class Seen:
    """The trainings that drew a sample, the newest run first, and those of which none can tell."""

    uses: tuple[Use, ...]
    untold: tuple[str, ...]  # run, task and why


def uses(store: Store, keys: Sequence[str]) -> Seen:
    """Return the trainings that drew any of the samples."""
    found: list[Use] = []
    untold: list[str] = []
    seen: set[str] = set()
    versions = list(_versions(store))
    runs = RunIndex(store).ids()
    for run_id in runs:
        record = RunRecord.load(store, run_id)
        for name, attempts in record.tasks.items():
            started = next((one for one in reversed(attempts) if one.started.get("key")), None)
            if started is None or started.started["key"] in seen:
                continue
            if ((started.finished or {}).get("cached_from") or {}).get("run_id") in runs:
                continue  # told with the run that trained it
            try:
                steps = _steps(store, record, started, attempts, keys)
            except VilaError as error:  # its corpora or models are gone, or out of reach
                why = str(error).partition("\n")[0]
                untold.append(f"run {run_id}, {name}: can't tell what it saw: {why}")
                continue
            if steps is None:
                continue
            key = str(started.started["key"])
            seen.add(key)
            done, drawn = steps
            if drawn:
                models = tuple(text for text, made_from in versions if key in made_from)
                stage = started.started["key_parts"]["stage"]
                kept, after = _checkpoints(store, key), _above(record, started)
                found.append(Use(run_id, name, stage, key, done, drawn, after, models, kept))
    return Seen(tuple(found), tuple(untold))


def as_json(places: Sequence[Place], seen: Seen) -> dict[str, Any]:
    """Return what was found, for scripts."""
    return {
        "places": [asdict(place) for place in places],
        "uses": [
            {**asdict(use), "after": sorted(use.after), "restart": use.restart} for use in seen.uses
        ],
        "untold": list(seen.untold),
    }


def _prepared(store: Store) -> dict[str, str]:
    """Return the digests of prepared results, with the run that made each."""
    found = {}
    for name in store.children("cache"):
        entry = json.loads(store.read(f"cache/{name}"))
        parts = entry.get("key_parts") or {}
        part = (parts.get("config") or {}).get("partition")  # it holds no corpora, its merge does
        if parts.get("stage") in ("prepare", "merge") and not part:
            found[entry["outputs"]["data"]["sha256"]] = entry["run_id"]
    return found


def _corpus(store: Store, sha256: str, name: str) -> Corpus | None:
    try:
        folder = at_hand(store, sha256) / "corpora" / name
    except UserError:  # it is gone
        return None
    return Corpus.open(folder) if folder.is_dir() else None


def _meta(corpus: Corpus, number: int) -> Mapping[str, Any]:
    try:
        return corpus.read(number).meta
    except VilaError:
        return {}


def _steps(
    store: Store,
    record: RunRecord,
    started: Attempt,
    attempts: Sequence[Attempt],
    keys: Sequence[str],
) -> tuple[int, tuple[int, ...]] | None:
    """Return how many steps a task has done, and those that drew a key; None: it trains nothing."""
    parts = started.started["key_parts"]
    values = started.config
    sha256 = parts["inputs"].get("data")
    if sha256 is None or "mixture" not in values or "train" not in values:
        return None
    names = {key.partition("/")[0] for key in keys} & set(values["mixture"])
    done = _done(attempts, values["train"]["steps"])
    if not names or not done:
        return done, ()
    config: Any = stage_config(parts["stage"]).model_validate(values)
    data = at_hand(store, sha256)
    corpora = open_corpora(config.data or data, dict.fromkeys(names, 1.0))
    wanted = {name: set(_numbers(corpus, keys)) for name, corpus in corpora.items()}
    if not any(wanted.values()):
        return done, ()
    with tempfile.TemporaryDirectory() as folder:
        tokens, tokenizer = _processor(store, record, parts, attempts, Path(folder))
        loader, _ = planned_loader(data, parts["stage"], config, tokens, tokenizer)
    return done, tuple(_drawn(loader, wanted, done))


def _drawn(loader: PackLoader, wanted: Mapping[str, set[int]], done: int) -> Iterator[int]:
    samples = [wanted.get(name, set()) for name in loader.names]
    for step, (packs, _) in enumerate(loader.plan(loader.initial_state()), start=1):
        if step > done:
            return
        if any(number in samples[source] for pack in packs for source, number in pack.draws):
            yield step


def _numbers(corpus: Corpus, keys: Sequence[str]) -> Iterator[int]:
    for key in keys:
        try:
            yield corpus.find(key)
        except KeyError:
            continue


def _done(attempts: Sequence[Attempt], total: int) -> int:
    """Return the steps that the attempts have done between them."""
    if any((one.finished or {}).get("status") in ("succeeded", "cached") for one in attempts):
        return total
    return max((int(one.progress.get("done") or 0) for one in attempts), default=0)


def _processor(
    store: Store,
    record: RunRecord,
    parts: Mapping[str, Any],
    attempts: Sequence[Attempt],
    folder: Path,
) -> tuple[int, Path]:
    """Return what an image costs, and where the tokenizer is (in `folder` for a remote store).

    Both are of the model that came out, went in, or of any of the run.
    """
    outputs = [output for one in attempts for output in _outputs(one)]
    others = [output for some in record.tasks.values() for one in some for output in _outputs(one)]
    for sha256 in (*outputs, *parts["inputs"].values(), *others):
        try:
            settings = json.loads(store.read(f"artifacts/{sha256}/{_PROCESSOR}"))
        except NotFound:
            continue
        ref = ref_of(store, sha256)
        for prefix in ("tokenizer", "special_tokens", "added_tokens", "chat_template"):
            place = fetch_below(store, ref, prefix, folder)
        return int(settings["tokens_per_image"]), place
    raise UserError("the run has no model that tells how many tokens an image takes")


def _above(record: RunRecord, started: Attempt) -> frozenset[str]:
    """Return the keys of all tasks that the inputs of one were made by, near and far."""
    makers = {
        sha256: one for some in record.tasks.values() for one in some for sha256 in _outputs(one)
    }
    keys: set[str] = set()
    todo = list(started.started["key_parts"]["inputs"].values())
    while todo:
        maker = makers.get(todo.pop())
        if maker is not None and maker.started["key"] not in keys:
            keys.add(maker.started["key"])
            todo += maker.started["key_parts"]["inputs"].values()
    return frozenset(keys)


def _outputs(attempt: Attempt) -> list[str]:
    outputs = (attempt.finished or {}).get("outputs") or {}
    return [output["sha256"] for output in outputs.values()]


def _versions(store: Store) -> Iterator[tuple[str, set[str]]]:
    """Yield each registry version with its aliases, and the keys of the tasks it was made by."""
    registry = Registry(store)
    for model in registry.models():
        aliases = registry.aliases(model)
        for version in registry.versions(model):
            names = [name for name, number in aliases.items() if number == version.number]
            text = f"{version.name} ({', '.join(names)})" if names else version.name
            yield text, {str(task["key"]) for task in version.lineage.get("tasks", {}).values()}


def _checkpoints(store: Store, key: str) -> tuple[int, ...]:
    """Return the steps of the checkpoints that a task still has, wherever they lie."""
    steps: set[int] = set()
    mirror = mirror_of(store, key)
    if mirror is not None:
        steps |= set(mirror.steps())
    kept = store.local_path(checkpoints_of(key))
    folders = [work_folder(store, key) / "checkpoints", *([kept] if kept else [])]
    for folder in folders:
        steps |= {int(path.parent.name.removeprefix("step-")) for path in _manifests(folder)}
    return tuple(sorted(steps))


def _manifests(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.glob("step-*/manifest.json")
        if path.parent.name.removeprefix("step-").isdigit()
    ]
