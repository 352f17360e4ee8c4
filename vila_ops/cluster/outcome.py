"""What came of bringing one thing into its state: a cluster's object, a part of a store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GOOD = ("created", "changed", "unchanged", "replaced")


@dataclass(frozen=True)
class Done:
    """What became of one thing: one of GOOD, or `skipped`, `missing`, `refused`, `failed`."""

    name: str
    outcome: str
    detail: str = ""
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON-able mapping."""
        return asdict(self)
