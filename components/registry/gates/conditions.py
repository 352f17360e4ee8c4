"""What `configs/gates/*.yaml` and `register.gates` hold: one condition each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vila_core.config import Frozen

CONTAMINATION = "contamination/"
"""Metric keys that begin so are made when a gate asks for them: see `contamination.py`."""
SHARED = "shared"


class Paired(Frozen):
    """What both gates say that hold a model against the alias's present version."""

    benchmarks: Literal["shared"] | tuple[str, ...] = SHARED
    """`shared`: all that both were asked. Else names: `pope`, or `pope@4` for one number of shots.
    Of a name, both must have records."""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the one-sided test, over all benchmarks of the file together (Holm)."""
    overlap_min: float = Field(default=1.0, gt=0, le=1)
    """Share of the present version's questions that the model must have been asked too."""
    first: Literal["pass", "fail"] = "pass"
    """What it means that the alias stands at no version yet."""

    @field_validator("benchmarks")
    @classmethod
    def _named(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("no benchmark is named; write 'shared' for all that both were asked")
        return value


class NonInferior(Paired):
    """Not worse than the present version by `margin` or more, on each benchmark."""

    margin: float = Field(gt=0, lt=1)
    """In score: 0.02 is 2 points of 100."""


class Superior(Paired):
    """Better than the present version, by more than `margin`, on each benchmark."""

    margin: float = Field(default=0.0, ge=0, lt=1)
    """In score: 0.02 is 2 points of 100."""


class Gate(Frozen):
    """One condition, such as "images help by 25 points": `{metric, minus, min: 0.25}`."""

    metric: str | None = None
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
    non_inferior: NonInferior | None = None
    """A paired test against the alias's present version."""
    superior: Superior | None = None
    """A paired test against the alias's present version."""

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Gate:
        kinds = [name for name in KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            found = f"this one has {' and '.join(kinds)}" if kinds else "this one has none"
            raise ValueError(f"a gate has one of {', '.join(KINDS)}; {found}")
        if self.metric is None:
            extra = [name for name in OF_METRIC if getattr(self, name) is not None]
            if extra:
                raise ValueError(f"{extra[0]} belongs to a gate on a metric, not to {kinds[0]}")
            return self
        if self.min is None and self.max is None and self.baseline_drop_max is None:
            raise ValueError(f"gate on {self.metric} needs min, max or baseline_drop_max")
        if self.noise is not None and self.baseline_drop_max is None:
            raise ValueError(
                f"gate on {self.metric}: noise is about drops from the baseline; set "
                "baseline_drop_max too (0.0: any drop beyond the noise fails)"
            )
        return self

    @property
    def paired(self) -> NonInferior | Superior | None:
        """The paired test that it asks for, if it does."""
        return self.non_inferior or self.superior


OF_METRIC = ("minus", "min", "max", "baseline_drop_max", "noise")
KINDS = ("metric", "non_inferior", "superior")
