"""What a text means: a version, a run, a task, a corpus, a sample key, or a digest's beginning."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from components.registry import Registry
from vila_core.errors import Damaged, UserError, VilaError
from vila_ops.lineage.facts import DataFacts, RunFacts, VersionFacts
from vila_ops.lineage.index import Facts, LineageIndex
from vila_ops.lineage.nodes import attempt_of, corpus_parts, task_id, version_of

LEAST_DIGITS = 6
MOST_FOUND = 50
_HEX = re.compile(r"[0-9a-f]{6,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RECORDS = 500
"""Records that are looked through for what a digest is."""


def find(index: LineageIndex, text: str) -> list[str]:
    """Return the nodes that a text may mean, the likeliest first; at most MOST_FOUND.

    Raises StoreError, and UserError for a version or alias that there is none of.
    """
    text = text.strip()
    found = dict.fromkeys(_named(index, text))
    if not found and _is_node(index, text):
        return [text]
    digits = text.lower().removeprefix("sha256:")
    if _HEX.fullmatch(digits):
        found |= dict.fromkeys(_digests(index, digits))
    return list(found)[:MOST_FOUND]


def find_one(index: LineageIndex, text: str) -> str:
    """Return the one node that a text means. Raises UserError where it is none, or several."""
    found = find(index, text)
    exact = bool(found) and found[0].partition(":")[2] == text.strip()
    sample = "/" in text and [one.partition(":")[0] for one in found] == ["shard", "corpus"]
    if len(found) == 1 or exact or sample:
        return found[0]
    if found:
        some = "\n".join(
            f"  {one.partition(':')[0]:<9} {one.partition(':')[2]}" for one in found[:8]
        )
        more = f"\n  and {len(found) - 8} more" if len(found) > 8 else ""
        raise UserError(f"'{text}' may mean {len(found)} things; give more of one:\n{some}{more}")
    raise UserError(nothing_found(index, text))


def _is_node(index: LineageIndex, text: str) -> bool:
    """Return whether a text is the name of a node, as graphs give it."""
    kind, _, value = text.partition(":")
    if kind == "task":
        return attempt_of(index, value) is not None or value.endswith("/0")
    if kind in ("artifact", "shard", "config", "code"):
        return bool(_SHA256.fullmatch(value)) and bool(index.holding(value))
    if kind == "corpus":
        data, name = corpus_parts(value)
        facts = index.data(data) if data else None
        if facts is None:
            return not data and bool(name)
        return any(one.name == name for one in facts.corpora)
    if kind == "run":
        return index.run(value) is not None
    if kind == "version":
        return version_of(index, value) is not None
    if kind in ("dvc", "commit"):
        return bool(_HEX.fullmatch(value)) and bool(index.holding(value))
    return kind == "alias" and "@" in value and value.partition("@")[0] in _models(index)


def _models(index: LineageIndex) -> set[str]:
    return {name.partition("@")[0] for name in index.version_names()}


def nothing_found(index: LineageIndex, text: str) -> str:
    """Return why a text means nothing here, and what may be asked for instead."""
    if re.fullmatch(r"[0-9a-f]{1,5}", text.lower()):
        return f"'{text}' is too short for a digest: give at least {LEAST_DIGITS} digits."
    known = [*index.run_ids(), *index.version_names(), *_corpora(index)]
    close = difflib.get_close_matches(text, known[-2000:], n=1)
    hint = (
        f"did you mean '{close[0]}'?"
        if close
        else "give MODEL@VERSION, MODEL@ALIAS, a run's id, RUN:TASK, a corpus, a sample key, or "
        "six digits or more of a digest."
    )
    return f"nothing in {index.store.uri} is called '{text}'; {hint}"


def _named(index: LineageIndex, text: str) -> Iterator[str]:
    if not text:
        return
    if "@" in text:
        yield from _version(index, text)
        return
    run_id, colon, task = text.partition(":")
    run = index.run(run_id)
    if run is not None and not colon:
        yield f"run:{run_id}"
        return
    if run is not None and task in run.latest:
        yield task_id(run_id, run.latest[task])
        return
    versions = [name for name in index.version_names() if name.partition("@")[0] == text]
    yield from (f"version:{name}" for name in _newest(versions))
    if text in _corpora(index):
        yield f"corpus:{text}"
    if text.count("/") >= 2 and text.partition("/")[0] in _corpora(index):
        yield from _sample(index, text)
    ids = index.run_ids()
    if text == "last" and ids:
        runs = [run for one in ids if (run := index.run(one)) is not None]
        yield f"run:{max(runs, key=lambda run: run.created_at).run_id}"
    yield from (f"run:{one}" for one in reversed(ids) if one.rsplit("-", 3)[0] == text)
    if len(text) >= 3:
        yield from (f"run:{one}" for one in reversed(ids) if one.startswith(text))


def _newest(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: int(name.rpartition("@")[2]), reverse=True)


def _version(index: LineageIndex, text: str) -> Iterator[str]:
    model, _, rest = text.partition("@")
    known = set(index.version_names())
    if rest.isdecimal() and f"{model}@{int(rest)}" in known:
        yield f"version:{model}@{int(rest)}"
        return
    try:
        yield f"version:{Registry(index.store).resolve(text).name}"
    except UserError:
        if any(name.partition("@")[0] == model for name in known):
            raise  # it says which versions and aliases there are
    except (Damaged, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{text}: the registry of {model} can't be read; fix: vila registry verify {model}\n"
            f"  {error}"
        ) from None


def _corpora(index: LineageIndex) -> list[str]:
    names = {corpus.name for facts in index.all_data() for corpus in facts.corpora}
    return sorted(names)


def _sample(index: LineageIndex, key: str) -> Iterator[str]:
    """Yield the shards and corpora that hold a sample; their indexes say so."""
    from vila_core.data.corpus import Corpus
    from vila_ops.planned_data import at_hand

    name = key.partition("/")[0]
    for facts in index.all_data():
        known = next((one for one in facts.corpora if one.name == name), None)
        try:
            corpus = Corpus.open(at_hand(index.store, facts.sha256) / "corpora" / name)
            number = corpus.find(key)
            shard = known.shards[int(corpus.index.shard[number])] if known else None
        except (VilaError, OSError, LookupError, ValueError, TypeError):
            continue  # it is gone, damaged, or has no such sample
        if shard is not None:
            yield f"shard:{shard.sha256}"
            yield f"corpus:{facts.sha256}/{name}"


def _digests(index: LineageIndex, digits: str) -> Iterator[str]:
    """Yield what the digests that begin so are, wherever they stand."""
    found: dict[str, None] = {}
    for key in index.holding(digits)[:_RECORDS]:
        facts = index.facts(key)
        if facts is not None:
            found |= dict.fromkeys(_roles(facts, digits))
        if len(found) > MOST_FOUND:
            break
    order = ("artifact", "task", "shard", "corpus", "config", "code", "dvc", "commit")
    yield from sorted(found, key=lambda node: order.index(node.partition(":")[0]))


def _roles(facts: Facts, digits: str) -> Iterator[str]:
    if isinstance(facts, RunFacts):
        yield from _roles_in_run(facts, digits)
    elif isinstance(facts, VersionFacts):
        named = [facts.artifact, facts.results, facts.baseline]
        for task in facts.tasks.values():
            named += [*task["inputs"].values(), *task["outputs"].values()]
        yield from (f"artifact:{one}" for one in named if one.startswith(digits))
    elif isinstance(facts, DataFacts):
        if facts.sha256.startswith(digits):
            yield f"artifact:{facts.sha256}"
        for corpus in facts.corpora:
            if corpus.index.startswith(digits) or corpus.manifest.startswith(digits):
                yield f"corpus:{facts.sha256}/{corpus.name}"
            for shard in corpus.shards:
                if shard.sha256.startswith(digits):
                    yield f"shard:{shard.sha256}"


def _roles_in_run(run: RunFacts, digits: str) -> Iterator[str]:
    if run.config.startswith(digits):
        yield f"config:{run.config}"
    if run.code.startswith(digits):
        yield f"code:{run.code}"
    if run.revision.startswith(digits):
        yield f"commit:{run.revision}"
    for version in run.dvc.values():
        md5 = version.get("md5", "")
        if md5.startswith(digits) or version.get("git_rev", "").startswith(digits):
            yield f"dvc:{md5}"
    for one in run.attempts:
        if one.config.startswith(digits):
            yield f"config:{one.config}"
        if one.code.startswith(digits):
            yield f"code:{one.code}"
        if one.key.startswith(digits) and not one.cached_from:
            yield task_id(run.run_id, one)
        for sha256 in (*one.inputs.values(), *one.outputs.values()):
            if sha256.startswith(digits):
                yield f"artifact:{sha256}"
