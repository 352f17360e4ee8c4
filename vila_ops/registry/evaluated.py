"""Where in a store a model was evaluated, by `vila eval` or any run: by the model's digest."""

from __future__ import annotations

from collections.abc import Callable

from components.registry.gates.evaluations import Evaluation, describe
from vila_core.store import Store
from vila_ops.lineage.facts import AttemptFacts, RunFacts
from vila_ops.lineage.index import LineageIndex
from vila_ops.run_index import side_by_side

FINISHED = ("succeeded", "cached")
Say = Callable[[str], None]


def evaluations_of_models(
    store: Store, models: tuple[str, ...], say: Say = lambda text: None
) -> list[tuple[Evaluation, ...]]:
    """Return for each model (sha256) the finished evaluations of it, the first to end first.

    The index of lineage tells them; it is brought up to date, and made where there is none. Of the
    same results the task counts that had them first. Raises StoreError.
    """
    index = LineageIndex(store, say)
    index.refresh()
    index.write()
    return [_described(store, _found(index, sha256)) for sha256 in models]


def _found(index: LineageIndex, model: str) -> list[tuple[str, AttemptFacts]]:
    """Return the runs and attempts that evaluated a model, one for each artifact of results."""
    every: list[tuple[str, AttemptFacts]] = []
    for key in index.holding(model):
        facts = index.facts(key)
        if isinstance(facts, RunFacts):
            every += [(facts.run_id, one) for one in facts.attempts if _evaluates(one, model)]
    every.sort(key=lambda found: (found[1].ended_at, found[0]))
    first: dict[str, tuple[str, AttemptFacts]] = {}
    for run_id, one in every:
        first.setdefault(one.outputs["results"], (run_id, one))
    return list(first.values())


def _evaluates(one: AttemptFacts, model: str) -> bool:
    asked = one.inputs.get("model") == model and "results" in one.outputs
    return asked and one.status in FINISHED


def _described(store: Store, found: list[tuple[str, AttemptFacts]]) -> tuple[Evaluation, ...]:
    def ask(one: tuple[str, AttemptFacts]) -> Evaluation:
        run_id, attempt = one
        results = attempt.outputs["results"]
        return describe(store, results, run_id, attempt.task, attempt.ended_at, attempt.inputs)

    return tuple(side_by_side(store, ask, found))
