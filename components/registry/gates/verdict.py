"""What a gate found, as it is kept with the decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What a gate found. `value` is None where there was nothing to measure: that never passes.

    `kind` tells which gate it was. `details` holds `gate` (what was looked at) and `asked` in
    words, and all numbers behind the verdict, so that it can be shown from its JSON alone.
    """

    passed: bool
    text: str
    value: float | None
    kind: str = "threshold"
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as a JSON-able mapping."""
        return asdict(self)
