"""The judge: the same for the last task of a recipe, `vila promote` and the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.registry.contamination import Contamination, asked_for, contamination
from components.registry.gates.approvals import rejection_verdicts
from components.registry.gates.candidate import Candidate
from components.registry.gates.conditions import Gate
from components.registry.gates.paired import paired_verdicts
from components.registry.gates.policies import policy_verdict
from components.registry.gates.thresholds import threshold_verdicts
from components.registry.gates.verdict import Verdict
from components.registry.noise import NoiseLedger


@dataclass(frozen=True)
class Judged:
    """All verdicts, in the order of the gates, the model's metrics, and what else was found."""

    verdicts: tuple[Verdict, ...]
    metrics: Mapping[str, float]
    contamination: Contamination

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def evidence(self) -> dict[str, Any]:
        """Return what is kept with the decision."""
        found = self.contamination.evidence
        return {
            "passed": self.passed,
            "gates": [verdict.as_json() for verdict in self.verdicts],
            **({"contamination": found} if found else {}),
        }


def judge(gates: Sequence[Gate], candidate: Candidate) -> Judged:
    """Ask every gate about a candidate. Nothing is written."""
    found = _contamination(gates, candidate)
    metrics: Mapping[str, float] = {**candidate.metrics, **found.metrics}
    spread = NoiseLedger(candidate.store).spread
    paired = paired_verdicts(gates, candidate)
    verdicts: list[Verdict] = []
    for place, gate in enumerate(gates):
        if gate.metric is not None:
            baseline = candidate.baseline_metrics
            verdicts += threshold_verdicts([gate], metrics, baseline, found.unknown, spread)
        elif gate.paired:
            verdicts += paired[place]
        else:
            verdicts.append(policy_verdict(gate, candidate))
    return Judged((*verdicts, *rejection_verdicts(candidate)), metrics, found)


def _contamination(gates: Sequence[Gate], candidate: Candidate) -> Contamination:
    if not asked_for(gates):
        return Contamination()
    return contamination(candidate, {key.partition("/")[0] for key in candidate.metrics})
