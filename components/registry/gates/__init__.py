"""Gates: what a model must show before an alias moves to it, and the judge who looks."""

from components.registry.gates.candidate import Candidate
from components.registry.gates.conditions import CONTAMINATION, Gate
from components.registry.gates.judge import Judged, judge
from components.registry.gates.verdict import Verdict

__all__ = ["CONTAMINATION", "Candidate", "Gate", "Judged", "Verdict", "judge"]
