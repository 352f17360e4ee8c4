"""Promote through gates: look first, then move, so that both are about the same state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from components.registry import HistoryEntry, Registry, Version
from components.registry.gates.candidate import Candidate, evaluations_of
from components.registry.gates.files import NamedGates, load_gates, names
from components.registry.gates.judge import judge
from components.registry.gates.verdict import Verdict
from components.registry.lineage import lineage_of
from components.registry.registry import check_name
from components.registry.stage import Config as RegisterConfig
from components.runtime.record import RunRecord
from vila_core import __version__
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.registry.evaluated import Say, evaluations_of_models
from vila_ops.registry.outbox import enqueue
from vila_ops.registry.rollback import approve, reject, rollback
from vila_ops.registry.subject import Subject, find_subject, metrics_in

__all__ = ["Judgement", "approve", "judge_promotion", "promote", "reject", "rollback"]


@dataclass(frozen=True)
class Judgement:
    """What the gates say of moving `model@alias` from version `before` (None: new) to `what`.

    `version` is the number of a version that exists already. `evidence` is what will be kept.
    """

    model: str
    what: str
    version: int | None
    alias: str
    before: int | None
    verdicts: tuple[Verdict, ...]
    passed: bool
    evidence: Mapping[str, Any]
    gates_name: str
    seconds: float
    subject: Subject
    metrics: Mapping[str, float]

    @property
    def stands(self) -> bool:
        """Whether the alias stands there already."""
        return self.version is not None and self.version == self.before

    def as_json(self) -> dict[str, Any]:
        """Return the judgement as a JSON-able mapping."""
        return {
            "model": self.model,
            "what": self.what,
            "version": self.version,
            "alias": self.alias,
            "before": self.before,
            "passed": self.passed,
            "gates_name": self.gates_name,
            "seconds": round(self.seconds, 3),
            "evidence": dict(self.evidence),
        }


def judge_promotion(
    store: Store,
    what: str,
    to: str,
    *,
    model: str | None = None,
    gates: str | None = None,
    who: str,
    say: Say = lambda text: None,
) -> Judgement:
    """Ask the gates whether `model@to` may move to `what`. Nothing is written but the index.

    `what` is a run (id, name, `last`), a task of one (`RUN:TASK`), or `MODEL@VERSION`. `gates` is a
    name in `configs/gates` or a file; by default the file named like the alias, or else the gates
    that the run's own task asks. `say` is told when there is much to read first. Raises UserError
    for what does not exist.
    """
    began = time.perf_counter()
    subject = find_subject(store, what)
    name = _model(subject, model)
    check_name(name, "a model")
    check_name(to, "an alias")
    asked = _gates(subject, to, gates)
    registry = Registry(store)
    version = subject.registered_as(registry, name)
    standing = registry.aliases(name).get(to)
    present = None if standing is None else registry.version(name, standing)
    candidate = Candidate(
        store=store,
        model=name,
        alias=to,
        run_id=subject.run_id,
        artifact=subject.artifact.sha256,
        metrics=metrics_in(store, subject.results),
        baseline_metrics=metrics_in(store, subject.baseline),
        results=tuple(filter(None, [subject.results])),
        baseline=subject.baseline,
        version=version,
        present=present,
        present_results=evaluations_of(present),
        who=who,
    )
    if present is not None and any(gate.paired for gate in asked.gates):
        ours, theirs = evaluations_of_models(
            store, (candidate.artifact, present.artifact.sha256), say
        )
        candidate = replace(candidate, evaluations=ours, present_evaluations=theirs)
    judged = judge(asked.gates, candidate)
    evidence = {
        **judged.evidence(),
        "gates_name": asked.name,
        "gates_digest": asked.digest,
        "what": subject.what,
        "alias": to,
        "before": standing,
        "artifact": subject.artifact.sha256,
        "results": subject.results,
        "baseline": subject.baseline,
        "who": who,
        "tool": f"vila-platform {__version__}",
    }
    return Judgement(
        model=name,
        what=subject.what,
        version=version.number if version else None,
        alias=to,
        before=standing,
        verdicts=judged.verdicts,
        passed=judged.passed,
        evidence=evidence,
        gates_name=asked.name,
        seconds=time.perf_counter() - began,
        subject=subject,
        metrics=judged.metrics,
    )


def promote(
    store: Store, judgement: Judgement, *, why: str = "", who: str, force: bool = False
) -> HistoryEntry:
    """Move the alias as judged; a model that is no version yet becomes one first.

    Raises UserError when gates failed (unless `force`, which needs `why` and marks the entry for
    ever), Conflict when the alias moved since the judgement. Where the alias stands there already,
    the entry that brought it is returned and nothing is written.
    """
    registry = Registry(store)
    alias = f"{judgement.model}@{judgement.alias}"
    if judgement.stands and registry.aliases(judgement.model).get(judgement.alias) == (
        judgement.version
    ):
        entries = registry.history(judgement.model)
        return next(one for one in reversed(entries) if one.alias == judgement.alias and one.moves)
    failed = [verdict for verdict in judgement.verdicts if not verdict.passed]
    if failed and not force:
        raise UserError(
            f"{judgement.what} is not promoted: {len(failed)} of {len(judgement.verdicts)} gates "
            f"failed, and {alias} stays where it was.\n"
            "  fix: what they ask for; or --force --why TEXT, which is marked for ever."
        )
    if force and not why.strip():
        raise UserError(f"{alias}: force needs a reason; fix: --why TEXT.")
    number = judgement.version or _register(store, registry, judgement).number
    entry = registry.move(
        judgement.model,
        judgement.alias,
        number,
        why=why or f"gates {judgement.gates_name} passed",
        who=who,
        evidence=judgement.evidence,
        forced=force and bool(failed),
        expected=judgement.before,
    )
    enqueue(store, judgement.model, entry)
    return entry


def _model(subject: Subject, asked: str | None) -> str:
    """Return the name in the registry: what is asked, or what the run or version says."""
    if subject.version is not None:
        if asked not in (None, subject.version.model):
            raise UserError(
                f"--model {asked}: {subject.version.name} is a version of {subject.version.model}; "
                f"fix: name its run instead, {subject.run_id}, to register it as {asked} too."
            )
        return subject.version.model
    found = asked or subject.register.get("model")
    if not found:
        raise UserError(f"{subject.what}: the run names no model; fix: --model NAME.")
    return found


def _gates(subject: Subject, alias: str, asked: str | None) -> NamedGates:
    if asked or alias in names():
        return load_gates(asked or alias)
    if subject.register:
        where = f"run {subject.run_id}"
        config = validate(RegisterConfig, subject.register, where=where, path="register")
        return NamedGates(f"of run {subject.run_id}", config.gates)
    raise UserError(
        f"{subject.what}: its run asks no gates; fix: --gates NAME or FILE (known: "
        f"{', '.join(names())})."
    )


def _register(store: Store, registry: Registry, judgement: Judgement) -> Version:
    subject = judgement.subject
    record = RunRecord.load(store, subject.run_id)
    return registry.register(
        Version(
            model=judgement.model,
            number=0,
            artifact=subject.artifact,
            run_id=subject.run_id,
            key=subject.key,
            metrics=judgement.metrics,
            evidence=judgement.evidence,
            lineage=lineage_of(record, subject.key, subject.inputs),
            results=subject.results,
            baseline=subject.baseline,
        )
    )
