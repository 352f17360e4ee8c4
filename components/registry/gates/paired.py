"""Gates that hold a model against the alias's present version, question by question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.registry.gates.candidate import Candidate
from components.registry.gates.conditions import SHARED, Gate, NonInferior, Superior
from components.registry.gates.sides import Evaluated, read_sides
from components.registry.gates.verdict import Verdict
from components.registry.records import Version

if TYPE_CHECKING:
    from vila_core.eval.answers import Answers, Key
    from vila_core.eval.margins import Margin

POWER = 0.8


@dataclass(frozen=True)
class _Tested:
    """One benchmark under one gate, before it is known how many tests there are."""

    place: int  # of the gate
    benchmark: str
    shots: int
    first: float
    second: float
    questions: int
    left_out: int
    only_present: int
    other_prompts: int
    margin: Margin

    @property
    def name(self) -> str:
        return f"{self.benchmark}@{self.shots}"


def paired_verdicts(gates: Sequence[Gate], candidate: Candidate) -> dict[int, list[Verdict]]:
    """Return the verdicts of all gates with a paired test, by the gate's place among `gates`.

    One verdict per benchmark; p-values are corrected (Holm) over all benchmarks of all gates.
    """
    asked = {place: gate.paired for place, gate in enumerate(gates) if gate.paired}
    if not asked:
        return {}
    present = candidate.present
    if present is None:
        return {place: [_first(test, candidate)] for place, test in asked.items()}
    if candidate.version is not None and candidate.version.name == present.name:
        return {place: [_itself(test, present)] for place, test in asked.items()}
    named = [name.partition("@")[0] for test in asked.values() for name in _names(test)]
    ours, theirs = read_sides(candidate, present, named)
    verdicts: dict[int, list[Verdict]] = {place: [] for place in asked}
    tested: list[_Tested] = []
    for place, test in asked.items():
        for key, problem in _wanted(test, ours, theirs):
            found = problem or _tested(place, test, ours.groups[key], theirs.groups[key])
            if isinstance(found, str):
                verdicts[place].append(_unknown(test, key, found, present))
            else:
                tested.append(found)
        if not verdicts[place] and not any(one.place == place for one in tested):
            verdicts[place].append(_nothing(test, ours, theirs, present))
    return _decided(asked, verdicts, tested, (ours, theirs), present)


def _wanted(
    test: NonInferior | Superior, ours: Evaluated, theirs: Evaluated
) -> list[tuple[Key, str | None]]:
    """Return the benchmarks that a gate is about, each with why it can't be compared, if so."""
    if test.benchmarks == SHARED:
        unread = dict.fromkeys([*theirs.unread, *ours.unread])
        return [
            *((key, None) for key in theirs.groups if key in ours.groups),
            *((key, _lacks(key, ours, theirs)) for key in unread),
        ]
    wanted: list[tuple[Key, str | None]] = []
    for text in _names(test):
        name, _, shots = text.partition("@")
        either = [
            key
            for key in dict.fromkeys([*theirs.groups, *ours.groups])
            if key[0] == name and (not shots or str(key[1]) == shots)
        ]
        if not either:
            number = int(shots) if shots.isdigit() else 0
            wanted.append(((name, number), _absent(True, True, ours, theirs)))
        for key in either:
            wanted.append((key, _lacks(key, ours, theirs)))
    return wanted


def _lacks(key: Key, ours: Evaluated, theirs: Evaluated) -> str | None:
    lacking = key not in ours.groups, key not in theirs.groups
    return _absent(*lacking, ours, theirs) if any(lacking) else None


def _names(test: NonInferior | Superior) -> tuple[str, ...]:
    return () if test.benchmarks == SHARED else tuple(test.benchmarks)


def _absent(ours: bool, theirs: bool, one: Evaluated, other: Evaluated) -> str:
    who = [*(["the model"] if ours else []), *(["the present version"] if theirs else [])]
    why = [*(one.problems if ours else ()), *(other.problems if theirs else ())]
    return f"no records of {' and '.join(who)}" + (f" ({'; '.join(why)})" if why else "")


def _tested(
    place: int, test: NonInferior | Superior, ours: Answers, theirs: Answers
) -> _Tested | str:
    """Test one benchmark; or return why it can't be compared."""
    from vila_core.eval.answers import is_binary, shared_places
    from vila_core.eval.margins import margin_test

    if ours.versions != theirs.versions:
        both = " and ".join(
            ", ".join(sorted(found)) or "none" for found in (theirs.versions, ours.versions)
        )
        return f"asked by different versions of the benchmark ({both})"
    if not (ours.scored and theirs.scored):
        return "scores are not known (the answers are not public, or a judge is missing)"
    at_first, at_second = shared_places(theirs, ours)
    shared = len(at_first)
    if shared / len(theirs) < test.overlap_min:
        return (
            f"the model was asked {shared:,} of the {len(theirs):,} questions that the "
            f"present version was; at least {test.overlap_min:.0%} are needed"
        )
    first, second = theirs.scores[at_first], ours.scores[at_second]
    margin = margin_test(
        second - first,
        theirs.asked.units[at_first],
        null=-test.margin if isinstance(test, NonInferior) else test.margin,
        level=test.level,
        worst=max(1.0, float(abs(first).max()), float(abs(second).max())),
        binary=is_binary(first, second),
    )
    return _Tested(
        place=place,
        benchmark=ours.benchmark,
        shots=ours.shots,
        first=math.fsum(first) / shared,
        second=math.fsum(second) / shared,
        questions=shared,
        left_out=len(ours) - shared,
        only_present=len(theirs) - shared,
        other_prompts=int((ours.prompts[at_second] != theirs.prompts[at_first]).sum()),
        margin=margin,
    )


def _decided(
    asked: Mapping[int, NonInferior | Superior],
    verdicts: dict[int, list[Verdict]],
    tested: Sequence[_Tested],
    sides: tuple[Evaluated, Evaluated],
    present: Version,
) -> dict[int, list[Verdict]]:
    from vila_core.eval.significance import holm

    corrected = holm({f"{one.place} {one.name}": one.margin.p for one in tested})
    for one in tested:
        test, p_holm = asked[one.place], corrected[f"{one.place} {one.name}"]
        key = one.benchmark, one.shots
        details = _details(one, p_holm, len(tested), present) | {
            "records": {"model": sides[0].records(key), "present": sides[1].records(key)},
            "lacking": [
                each.name for key, each in sides[1].groups.items() if key not in sides[0].groups
            ],
        }
        passed = p_holm < 1 - test.level
        verdicts[one.place].append(
            Verdict(passed, _text(one, test, details), one.margin.mean, kind_of(test), details)
        )
    return verdicts


def _details(one: _Tested, p_holm: float, tests: int, present: Version) -> dict[str, Any]:
    margin = one.margin
    asked = f"above {100 * margin.null:+.2f}"
    return {
        "gate": one.name,
        "asked": f"{asked} points, p (Holm) below {1 - margin.level:.3g}",
        "benchmark": one.benchmark,
        "shots": one.shots,
        "n": one.questions,
        "units": margin.units,
        "first": one.first,
        "second": one.second,
        "difference": margin.mean,
        "low": margin.low,
        "high": margin.high,
        "level": margin.level,
        "margin": abs(margin.null),
        "null": margin.null,
        "test": margin.test,
        "p": margin.p,
        "p_holm": p_holm,
        "tests": tests,
        "detectable": margin.detectable(tests, POWER),
        "power": POWER,
        "left_out": one.left_out,
        "only_present": one.only_present,
        "other_prompts": one.other_prompts,
        "baseline_version": present.number,
    }


def _text(one: _Tested, test: NonInferior | Superior, details: Mapping[str, Any]) -> str:
    margin, points = one.margin, 100 * test.margin
    asked = f"a loss of {points:.3g} points" if isinstance(test, NonInferior) else "no gain"
    if isinstance(test, Superior) and test.margin:
        asked = f"a gain of {points:.3g} points or less"
    said = "is ruled out" if details["p_holm"] < 1 - margin.level else "is not ruled out"
    return (
        f"{one.name}: {100 * margin.mean:+.2f} points from version {details['baseline_version']} "
        f"({100 * margin.low:+.2f} to {100 * margin.high:+.2f}); {asked} {said} "
        f"(p {details['p_holm']:.2g}, corrected for {details['tests']})"
    )


def kind_of(test: NonInferior | Superior) -> str:
    """Return the kind that verdicts of a paired test have."""
    return "non-inferior" if isinstance(test, NonInferior) else "superior"


def _short(test: NonInferior | Superior) -> str:
    return f"{kind_of(test)} to the present version"


def _first(test: NonInferior | Superior, candidate: Candidate) -> Verdict:
    alias = f"{candidate.model}@{candidate.alias}"
    passed = test.first == "pass"
    text = f"{_short(test)}: {alias} stands at no version yet" + (
        "" if passed else ", and the gate asks for one (first: fail)"
    )
    details = {
        "gate": _short(test),
        "found": "no version there yet",
        "asked": "passes for the first" if passed else "a version to hold it against",
        "baseline_version": None,
    }
    return Verdict(passed, text, None, kind_of(test), details)


def _itself(test: NonInferior | Superior, present: Version) -> Verdict:
    details = {
        "gate": _short(test),
        "found": "it is that version",
        "asked": "",
        "baseline_version": present.number,
    }
    text = f"{_short(test)}: it is {present.name} itself"
    return Verdict(True, text, None, kind_of(test), details)


def _unknown(test: NonInferior | Superior, key: Key, why: str, present: Version) -> Verdict:
    name = f"{key[0]}@{key[1]}"
    details = {
        "gate": name,
        "found": f"can't be told: {why}",
        "asked": _short(test),
        "benchmark": key[0],
        "shots": key[1],
        "baseline_version": present.number,
        "fix": f"evaluate both on the same {key[0]}; if it is a benchmark: vila eval "
        f"{present.name} --benchmarks {key[0]} --data DIR, and the model likewise",
    }
    text = f"{name}: {_short(test)}: can't be told: {why}"
    return Verdict(False, text, None, kind_of(test), details)


def _nothing(
    test: NonInferior | Superior, ours: Evaluated, theirs: Evaluated, present: Version
) -> Verdict:
    why = _absent(not ours.groups, not theirs.groups, ours, theirs)
    if ours.groups and theirs.groups:
        why = "no benchmark in common"
    details = {
        "gate": _short(test),
        "found": f"can't be told: {why}",
        "asked": "records of the same questions",
        "baseline_version": present.number,
        "fix": f"evaluate it on what {present.name} was evaluated on",
    }
    text = f"{_short(test)}: can't be told: {why}"
    return Verdict(False, text, None, kind_of(test), details)
