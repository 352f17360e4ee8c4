"""What a model was trained on against what it was evaluated on, for gates on `contamination/…`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.registry.gates.conditions import CONTAMINATION, Gate
from vila_core.errors import Damaged, NotFound, NotInstalled, UserError
from vila_core.store import Store, fetch_below, ref_of

if TYPE_CHECKING:
    from components.registry.gates.candidate import Candidate
    from vila_core.data.location import Location


@dataclass(frozen=True)
class Contamination:
    """Metrics by key and what else was found; or why nothing can be told."""

    metrics: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    unknown: str | None = None


def asked_for(gates: Iterable[Gate]) -> bool:
    """Return whether a gate is about contamination."""
    names = [name for gate in gates for name in (gate.metric, gate.minus) if name]
    return any(name.startswith(CONTAMINATION) for name in names)


def contamination(candidate: Candidate, tasks: Iterable[str]) -> Contamination:
    """Count the samples of the model's training corpora that stand in the evaluation `tasks`.

    The corpora are those in the mixtures of all trainings of its run behind the model, the
    evaluation sets those that its results and its baseline's were made with. Indexes and signatures
    are read, no shard. Metrics: `contamination/samples` in all, and `contamination/CORPUS` of each.
    """
    try:
        corpora = corpora_of(candidate)
        if not corpora:
            return Contamination(unknown="the run has no record of a training of this model")
        return _compared(candidate, corpora, set(tasks))
    except NotInstalled:
        raise  # no finding about the model, and soon mended
    except (UserError, NotFound, Damaged) as error:  # it must not pass, but the model is kept
        return Contamination(unknown=str(error))


def corpora_of(candidate: Candidate) -> list[Location]:
    """Return where the corpora of all mixtures lie, each once."""
    from vila_core.data.location import corpora_at

    found: dict[str, Location] = {}
    for attempt in candidate.made_by:
        inputs, config = attempt.started["key_parts"]["inputs"], attempt.config
        for name in config.get("mixture") or ():
            root = config.get("data") or _place(candidate.store, inputs["data"])
            corpus = corpora_at(root).below(name)
            found[corpus.uri] = corpus
    return list(found.values())


def _compared(candidate: Candidate, corpora: Sequence[Location], tasks: set[str]) -> Contamination:
    from vila_core.data.dedupe import recheck
    from vila_core.stages.evalsets import eval_items

    with tempfile.TemporaryDirectory(prefix="vila-evals-") as scratch:
        evals = {}
        for sha256 in _evaluated(candidate):
            ref = ref_of(candidate.store, sha256)
            folder = fetch_below(candidate.store, ref, "eval/", Path(scratch) / sha256)
            evals = {**eval_items(folder / "eval"), **evals}
        missing = ", ".join(sorted(tasks - evals.keys())) or ("any task" if not tasks else "")
        if missing:
            return Contamination(unknown=f"the evaluation sets of {missing} aren't in this run")
        found = recheck(corpora, {name: evals[name] for name in sorted(tasks)})
    metrics = {f"{CONTAMINATION}{corpus}": 0.0 for corpus in found.corpora}
    for (corpus, _), count in found.contaminated.items():
        metrics[f"{CONTAMINATION}{corpus}"] += count
    return Contamination(
        {**metrics, f"{CONTAMINATION}samples": float(found.found)}, found.to_json()
    )


def _evaluated(candidate: Candidate) -> list[str]:
    """Return the artifacts (sha256) that the evaluations read their tasks from."""
    inputs = [attempt.started["key_parts"]["inputs"] for attempt in candidate.measured_by]
    return list(dict.fromkeys(one["data"] for one in inputs if one.get("data")))


def _place(store: Store, sha256: str) -> str | Path:
    """Return an artifact's folder: in place where the store is a directory."""
    return store.local_path(f"artifacts/{sha256}") or ref_of(store, sha256).uri
