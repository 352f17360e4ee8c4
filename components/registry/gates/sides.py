"""The answers of both sides of a paired gate: the model's, and the present version's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from components.registry.gates.candidate import Candidate
from components.registry.gates.evaluations import Evaluation, Known, choose, own_evaluation
from components.registry.records import Version
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.store import Store

if TYPE_CHECKING:
    from vila_core.eval.answers import Answers, Key


@dataclass(frozen=True)
class Evaluated:
    """What a model answered, by benchmark and shots.

    `problems` says what could not be read. `sources` are the evaluations that the groups are from,
    `known` those in other tasks, `unread` benchmarks that one of these should have had.
    """

    groups: Mapping[Key, Answers]
    problems: tuple[str, ...]
    sources: Mapping[Key, Evaluation] = field(default_factory=dict)
    known: tuple[Evaluation, ...] = ()
    unread: tuple[Key, ...] = ()

    def records(self, key: Key) -> dict[str, Any]:
        """Return what the evidence says of where the records of a benchmark are from.

        `passed_over` are the evaluations that had it too and did not count.
        """
        source = self.sources[key]
        others = [one for one in self.known if key in one.keys and one.results != source.results]
        return {
            "results": source.results,
            "run_id": source.run_id,
            "task": source.task,
            "ended_at": source.ended_at,
            "own": source not in self.known,
            "passed_over": sorted(one.name for one in others),
        }


def read_sides(
    candidate: Candidate, present: Version, named: Iterable[str]
) -> tuple[Evaluated, Evaluated]:
    """Read what the model and the present version answered, in their own evaluations or others.

    `named` are the benchmarks that gates ask for by name, whoever was asked them.
    """
    store = candidate.store
    ours = _own(store, candidate.results, candidate.run_id, candidate.evaluations)
    theirs = _own(store, candidate.present_results, present.run_id, candidate.present_evaluations)
    chosen = choose(Known(ours.sources, ours.known), Known(theirs.sources, theirs.known), named)
    return _with_others(store, ours, chosen.ours), _with_others(store, theirs, chosen.theirs)


def _own(
    store: Store, artifacts: Sequence[str], run_id: str, others: Sequence[Evaluation]
) -> Evaluated:
    """Read a model's own evaluation. One that can't be read is not made up for by others."""
    side = Evaluated({}, ())
    for sha256 in artifacts:
        side = _with(side, store, own_evaluation(store, sha256, run_id))
    known = () if side.problems else tuple(one for one in others if one.results not in artifacts)
    return replace(side, known=known)


def _with_others(store: Store, side: Evaluated, chosen: Mapping[Key, Evaluation]) -> Evaluated:
    """Add the benchmarks that only evaluations in other tasks have."""
    missing = {key: one for key, one in chosen.items() if key not in side.groups}
    for one in dict.fromkeys(missing.values()):
        side = _with(side, store, one, [key for key, found in missing.items() if found == one])
    unread = tuple(key for key in missing if key not in side.groups)
    parts = [
        f"{one.name} asked only a part of {', '.join(sorted({key[0] for key in one.keys}))}"
        for one in side.known
        if not one.whole and one.keys - side.groups.keys()
    ]
    return replace(side, problems=(*side.problems, *parts), unread=unread)


def _with(
    side: Evaluated, store: Store, one: Evaluation, keys: Sequence[Key] | None = None
) -> Evaluated:
    """Add what one evaluation has of `keys` (None: of anything) that is not there yet."""
    read = _read(store, one.results)
    fresh = {
        key: answers
        for key, answers in read.groups.items()
        if key not in side.groups and (keys is None or key in keys)
    }
    return replace(
        side,
        groups={**side.groups, **fresh},
        problems=(*side.problems, *read.problems),
        sources={**side.sources, **dict.fromkeys(fresh, one)},
    )


def _read(store: Store, sha256: str) -> Evaluated:
    """Read the records of one evaluation."""
    from vila_core.eval.read_answers import answers_of

    try:
        found = answers_of(store, sha256)
    except (NotFound, Damaged, UserError) as error:
        return Evaluated({}, (str(error),))
    return Evaluated(found, ())
