"""The last task of the recipe: register the model; move the alias when the gates pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import field_validator

from components.registry import Registry, Version
from components.registry.contamination import asked_for
from components.registry.gates.candidate import Candidate, evaluations_of, read_metrics
from components.registry.gates.conditions import Gate
from components.registry.gates.files import raw_gates
from components.registry.gates.judge import Judged, judge
from components.registry.keys import first_key
from components.registry.lineage import lineage_of
from components.registry.users import user_name
from components.runtime.record import RunRecord
from components.runtime.services import StageServices
from vila_core.config import Frozen
from vila_core.errors import Conflict, UserError
from vila_core.jsonio import dumps
from vila_core.types import QUIET, Reporter, StageResult

FOLLOWS = ("threshold", "baseline", "contamination", "licence")
"""Kinds of gates that follow from config and inputs; others look at the store around them."""

LOCAL = ("inline", "subprocess")
"""Runners whose tasks run as this user, with this user's settings."""


class Config(Frozen):
    """What to register as, and what must hold before the alias moves."""

    model: str = "miniature"
    """Name of the model in the registry."""
    alias: str = "candidate"
    """The alias to move."""
    gates: tuple[Gate, ...] = "miniature"  # type: ignore[assignment]  # read by the validator
    """Conditions, or the name of a file in `configs/gates`."""

    @field_validator("gates", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return raw_gates(value) if isinstance(value, str) else value


def run(
    config: Config,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter = QUIET,
    *,
    services: StageServices,
) -> StageResult:
    """Register `inputs["model"]` with its results; the alias moves only if every gate passes.

    A gate that fails does not fail the task: the version is kept with the evidence, and `promoted`
    is 0. Raises UserError for results that can't be read.
    """
    candidate = _candidate(config, inputs, services)
    _have_key(services, report)
    if asked_for(config.gates):
        report.info("comparing the training corpora with the evaluation sets")
    judged, version = _decide(config, candidate, services, report)
    folder = out_dir / "version"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "version.json").write_text(_artifact(config, judged, services), encoding="utf-8")
    return StageResult(
        {"version": folder}, {"promoted": float(judged.passed), "version": float(version.number)}
    )


def _have_key(services: StageServices, report: Reporter) -> None:
    """Make this user's signing key on first use; in a container or a cluster nobody has a home."""
    if RunRecord.load(services.store, services.run_id).run.get("runner") in LOCAL:
        key, fresh = first_key()
        if key is not None and fresh:
            report.info(f"made a signing key for versions: {key.path}")


def _candidate(config: Config, inputs: Mapping[str, Path], services: StageServices) -> Candidate:
    refs = {name: ref.sha256 for name, ref in services.inputs.items()}
    return Candidate(
        store=services.store,
        model=config.model,
        alias=config.alias,
        run_id=services.run_id,
        artifact=refs["model"],
        metrics=_summary(inputs["results"]),
        baseline_metrics=_summary(inputs["baseline"]),
        results=(refs["results"],),
        baseline=refs["baseline"],
        version=None,
        present=None,
        present_results=(),
        who=user_name(),
    )


def _decide(
    config: Config, candidate: Candidate, services: StageServices, report: Reporter
) -> tuple[Judged, Version]:
    """Judge, register, and move the alias if all gates pass; again where it moved meanwhile."""
    registry = Registry(services.store)
    mine = (services.run_id, services.key.key)
    known = [one for one in registry.versions(config.model) if (one.run_id, one.key) == mine]
    version = known[0] if known else None  # of an attempt that ended before its result was kept
    while True:
        standing = registry.aliases(config.model).get(config.alias)
        present = None if standing is None else registry.version(config.model, standing)
        now = replace(
            candidate, version=version, present=present, present_results=evaluations_of(present)
        )
        judged = judge(config.gates, now)
        for verdict in judged.verdicts:
            report.info(f"gate {'passed' if verdict.passed else 'FAILED'}: {verdict.text}")
        if version is None:
            version = registry.register(_version(config, candidate, services, judged))
        if not judged.passed or standing == version.number:
            break
        why = f"gates passed in run {services.run_id}"
        evidence = judged.evidence()
        try:
            registry.move(
                config.model,
                config.alias,
                version.number,
                why=why,
                evidence=evidence,
                expected=standing,
            )
        except Conflict:
            report.info(f"{config.model}@{config.alias} has just moved: asking the gates again")
            continue
        break
    _tell(config, version, judged, report)
    return judged, version


def _tell(config: Config, version: Version, judged: Judged, report: Reporter) -> None:
    alias = f"{config.model}@{config.alias}"
    if judged.passed:
        report.info(f"{version.name} is now {alias}")
        return
    failed = sum(not verdict.passed for verdict in judged.verdicts)
    report.info(
        f"{version.name} is registered but not promoted: {failed} of {len(judged.verdicts)} gates "
        f"failed; {alias} stays where it was"
    )


def _version(
    config: Config, candidate: Candidate, services: StageServices, judged: Judged
) -> Version:
    record = RunRecord.load(services.store, services.run_id)
    inputs = {name: ref.sha256 for name, ref in services.inputs.items()}
    return Version(
        model=config.model,
        number=0,
        artifact=services.inputs["model"],
        run_id=services.run_id,
        key=services.key.key,
        metrics=judged.metrics,
        evidence=judged.evidence(),
        lineage=lineage_of(record, services.key.key, inputs),
        results=inputs["results"],
        baseline=inputs["baseline"],
    )


def _artifact(config: Config, judged: Judged, services: StageServices) -> str:
    """Return what is published: it follows from config, inputs and code alone.

    So without number, time and what gates found that look at the alias's present version, at who
    approved, or at certificates.
    """
    evidence = judged.evidence()
    evidence["gates"] = [gate for gate in evidence["gates"] if gate["kind"] in FOLLOWS]
    evidence["passed"] = all(gate["passed"] for gate in evidence["gates"])
    value = {
        "model": config.model,
        "artifact": services.inputs["model"].sha256,
        "results": services.inputs["results"].sha256,
        "baseline": services.inputs["baseline"].sha256,
        "evidence": evidence,
    }
    return dumps(value, indent=1) + "\n"


def _summary(folder: Path) -> dict[str, float]:
    path = folder / "summary.json"
    try:
        return read_metrics(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: is not a summary of an evaluation ({error}).") from None
