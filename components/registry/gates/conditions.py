"""What `configs/gates/*.yaml` and `register.gates` hold: one condition each."""

from __future__ import annotations

from pydantic import model_validator

from vila_core.config import Frozen

CONTAMINATION = "contamination/"
"""Metric keys that begin so are made when a gate asks for them: see `contamination.py`."""


class Gate(Frozen):
    """One condition, such as "images help by 25 points": `{metric, minus, min: 0.25}`."""

    metric: str
    """Metric key, `task/metric@shots`, or `contamination/samples`."""
    minus: str | None = None
    """A metric of the same model to subtract first."""
    min: float | None = None
    """The least value that passes."""
    max: float | None = None
    """The greatest value that passes."""
    baseline_drop_max: float | None = None
    """How far `metric` may lie below the same metric of the baseline results."""
    noise: str | None = None
    """A size in the ledger of seed noise: a drop that seeds alone explain passes too."""

    @model_validator(mode="after")
    def _asks_something(self) -> Gate:
        if self.min is None and self.max is None and self.baseline_drop_max is None:
            raise ValueError(f"gate on {self.metric} needs min, max or baseline_drop_max")
        if self.noise is not None and self.baseline_drop_max is None:
            raise ValueError(
                f"gate on {self.metric}: noise is about drops from the baseline; set "
                "baseline_drop_max too (0.0: any drop beyond the noise fails)"
            )
        return self
