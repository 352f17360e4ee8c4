"""The last task of the recipe: register the model; move the alias when the gates pass."""

from __future__ import annotations

import difflib
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import field_validator

from components.registry.contamination import Contamination, asked_for, contamination
from components.registry.gates import Gate, judge
from components.registry.lineage import lineage_of
from components.registry.noise import NoiseLedger
from components.registry.registry import Registry, Version
from components.runtime.services import StageServices
from vila_core.config import Frozen
from vila_core.errors import UserError
from vila_core.jsonio import dumps
from vila_core.types import QUIET, Reporter, StageResult


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
        return _read_gates(value) if isinstance(value, str) else value


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
    metrics = _metrics(inputs["results"])
    baseline = _metrics(inputs["baseline"])
    found = Contamination()
    if asked_for(config.gates):
        report.info("comparing the training corpora with the evaluation sets")
        found = contamination(services, {key.partition("/")[0] for key in metrics})
        metrics |= found.metrics
    spread = NoiseLedger(services.store).spread
    verdicts = judge(config.gates, metrics, baseline, found.unknown, spread)
    passed = all(verdict.passed for verdict in verdicts)
    evidence: dict[str, Any] = {
        "passed": passed,
        "gates": [verdict.as_json() for verdict in verdicts],
        **({"contamination": found.evidence} if found.evidence else {}),
    }
    registry = Registry(services.store)
    version = registry.register(
        Version(
            model=config.model,
            number=0,
            artifact=services.inputs["model"],
            run_id=services.run_id,
            key=services.key.key,
            metrics=metrics,
            evidence=evidence,
            lineage=lineage_of(services),
            results=services.inputs["results"].sha256,
            baseline=services.inputs["baseline"].sha256,
        )
    )
    for verdict in verdicts:
        report.info(f"gate {'passed' if verdict.passed else 'FAILED'}: {verdict.text}")
    if passed:
        why = f"gates passed in run {services.run_id}"
        if registry.aliases(config.model).get(config.alias) != version.number:
            registry.move(config.model, config.alias, version.number, why=why, evidence=evidence)
        report.info(f"{version.name} is now {config.model}@{config.alias}")
    else:
        failed = sum(not verdict.passed for verdict in verdicts)
        report.info(
            f"{version.name} is registered but not promoted: {failed} of {len(verdicts)} gates "
            f"failed; {config.model}@{config.alias} stays where it was"
        )
    folder = out_dir / "version"
    folder.mkdir(parents=True, exist_ok=True)
    # Without the number and the time: an artifact follows from config, inputs and code alone.
    value = {
        "model": config.model,
        "artifact": services.inputs["model"].sha256,
        "results": services.inputs["results"].sha256,
        "baseline": services.inputs["baseline"].sha256,
        "evidence": evidence,
    }
    (folder / "version.json").write_text(dumps(value, indent=1) + "\n", encoding="utf-8")
    return StageResult(
        {"version": folder}, {"promoted": float(passed), "version": float(version.number)}
    )


def _read_gates(name: str) -> list[dict[str, Any]]:
    folder = importlib.resources.files("configs") / "gates"
    known = sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"there is no configs/gates/{name}.yaml; {fix}")
    return yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))["gates"]


def _metrics(results: Path) -> dict[str, float]:
    """Read `summary.json`: metrics by key, as numbers or as `{"value": …, …}`."""
    path = results / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        return {
            key: float(item["value"] if isinstance(item, Mapping) else item)
            for key, item in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a summary of an evaluation ({error}).") from None
