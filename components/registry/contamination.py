"""What a model was trained on against what it was evaluated on, for gates on `contamination/…`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.registry.gates import CONTAMINATION, Gate
from components.registry.lineage import ancestors
from components.runtime.services import StageServices
from vila_core.errors import Damaged, NotFound, NotInstalled, UserError
from vila_core.store import Store, fetch_below, ref_of

if TYPE_CHECKING:
    from components.runtime.record import Attempt
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


def contamination(services: StageServices, tasks: Iterable[str]) -> Contamination:
    """Count the samples of the model's training corpora that stand in the evaluation `tasks`.

    The corpora are those in the mixtures of all trainings of this run behind the input `model`, the
    evaluation sets those that `results` and `baseline` were made with. Indexes and signatures are
    read, no shard. Metrics: `contamination/samples` in all, and `contamination/CORPUS` of each.
    """
    try:
        corpora = _corpora(services)
        if not corpora:
            return Contamination(unknown="the run has no record of a training of this model")
        return _compared(services, corpora, set(tasks))
    except NotInstalled:
        raise  # no finding about the model, and soon mended
    except (UserError, NotFound, Damaged) as error:  # it must not pass, but the model is kept
        return Contamination(unknown=str(error))


def _compared(
    services: StageServices, corpora: Sequence[Location], tasks: set[str]
) -> Contamination:
    from vila_core.data.dedupe import recheck
    from vila_core.stages.evalsets import eval_items

    with tempfile.TemporaryDirectory(prefix="vila-evals-") as scratch:
        evals = {}
        for sha256 in _evaluated(services):
            ref = ref_of(services.store, sha256)
            folder = fetch_below(services.store, ref, "eval/", Path(scratch) / sha256)
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


def _corpora(services: StageServices) -> list[Location]:
    """Return where the corpora of all mixtures lie, each once."""
    from vila_core.data.location import corpora_at

    found: dict[str, Location] = {}
    for attempt in ancestors(services, [services.inputs["model"].sha256]):
        inputs, config = attempt.started["key_parts"]["inputs"], attempt.config
        for name in config.get("mixture") or ():
            root = config.get("data") or _place(services.store, inputs["data"])
            corpus = corpora_at(root).below(name)
            found[corpus.uri] = corpus
    return list(found.values())


def _evaluated(services: StageServices) -> list[str]:
    """Return the artifacts (sha256) that the evaluations read their tasks from."""
    results = [services.inputs[name].sha256 for name in ("results", "baseline")]
    makers = [one for one in ancestors(services, results) if _made(one, results)]
    data = [one.started["key_parts"]["inputs"].get("data") for one in makers]
    return list(dict.fromkeys(sha256 for sha256 in data if sha256))


def _made(attempt: Attempt, wanted: Sequence[str]) -> bool:
    outputs = (attempt.finished or {}).get("outputs") or {}
    return any(output["sha256"] in wanted for output in outputs.values())


def _place(store: Store, sha256: str) -> str | Path:
    """Return an artifact's folder: in place where the store is a directory."""
    return store.local_path(f"artifacts/{sha256}") or ref_of(store, sha256).uri
