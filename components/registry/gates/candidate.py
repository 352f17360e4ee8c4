"""The model that gates are asked about, and what there is to know of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from components.registry import Version
from components.registry.gates.evaluations import Evaluation
from components.registry.lineage import ancestors
from components.runtime.record import Attempt, RunRecord
from vila_core.errors import NotFound, UserError
from vila_core.store import Store


@dataclass(frozen=True)
class Candidate:
    """A model of a run that may become `model@alias`.

    `artifact`, `results` and `baseline` are sha256 of artifacts: its files, its evaluation (more
    than one where it was evaluated again), and that of the model it is held against ("" for none).
    `version` is None while it is registered under no number, `present` while the alias stands
    nowhere; `present_results` are that one's evaluations. `who` decides. `evaluations` and
    `present_evaluations` are others of the same weights, in whatever run.
    """

    store: Store
    model: str
    alias: str
    run_id: str
    artifact: str
    metrics: Mapping[str, float]
    baseline_metrics: Mapping[str, float]
    results: tuple[str, ...]
    baseline: str
    version: Version | None
    present: Version | None
    present_results: tuple[str, ...]
    who: str
    evaluations: tuple[Evaluation, ...] = ()
    present_evaluations: tuple[Evaluation, ...] = ()

    @cached_property
    def record(self) -> RunRecord | None:
        """The record of its run; None where that was removed."""
        try:
            return RunRecord.load(self.store, self.run_id)
        except NotFound:
            return None

    @cached_property
    def made_by(self) -> list[Attempt]:
        """The attempts of its run that lead to its files, the last first."""
        return ancestors(self.record, [self.artifact]) if self.record else []

    @property
    def measured_by(self) -> list[Attempt]:
        """The attempts of its run that made `results` and `baseline`."""
        wanted = [*self.results, self.baseline]
        made = ancestors(self.record, wanted) if self.record else []
        return [attempt for attempt in made if _made(attempt, wanted)]


def read_metrics(text: str | bytes, where: str) -> dict[str, float]:
    """Read a `summary.json`: metrics by key, as numbers or as `{"value": …, …}`.

    What is no finite number is left out, as if it had not been measured. Raises UserError, naming
    `where` it is from, for another content.
    """
    try:
        values = {
            key: item["value"] if isinstance(item, Mapping) else item
            for key, item in json.loads(text)["metrics"].items()
        }
        found = {key: float(value) for key, value in values.items() if value is not None}
        return {key: value for key, value in found.items() if math.isfinite(value)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: is not a summary of an evaluation ({error}).") from None


def results_of(version: Version) -> str:
    """Return the artifact (sha256) of a version's evaluation; "" where it isn't known."""
    registered = version.lineage.get("register") or {}
    return version.results or (registered.get("inputs") or {}).get("results") or ""


def evaluations_of(version: Version | None) -> tuple[str, ...]:
    """Return the artifacts (sha256) of a version's evaluations; none where they aren't known."""
    found = results_of(version) if version is not None else ""
    return (found,) if found else ()


def _made(attempt: Attempt, wanted: list[str]) -> bool:
    outputs = (attempt.finished or {}).get("outputs") or {}
    return any(output["sha256"] in wanted for output in outputs.values())
