"""What `configs/gates/*.yaml` and `register.gates` hold: one condition each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vila_core.config import Frozen
from vila_core.layouts import LayoutName

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


class Resume(Frozen):
    """The trainings behind the model were proven to resume to the bit: `vila verify resume`."""

    tasks: Literal["all"] | tuple[str, ...] = "all"
    """`all`: every task that aligns, pre-trains or tunes."""


class Export(Frozen):
    """An export of the version was proven to give the same logits: `vila registry export`."""

    layouts: tuple[LayoutName, ...] = ()
    """Each of these. None: any one is enough."""


class Licences(Frozen):
    """The licences of all corpora that the model was trained on are allowed.

    `*` stands for any text: `CC-BY-*`. Upper and lower case make no difference.
    """

    allow: tuple[str, ...] | None = None
    """Only these. None: all that `deny` does not name."""
    deny: tuple[str, ...] = ()
    """None of these, even if `allow` names them too."""
    unknown: Literal["fail", "pass"] = "fail"
    """What it means that a corpus names no licence."""

    @model_validator(mode="after")
    def _says_something(self) -> Licences:
        if not self.allow and not self.deny:
            raise ValueError("name licences under allow or deny, for example allow: [CC-BY-4.0]")
        return self


class Approvals(Frozen):
    """People have approved the version: `vila registry approve`."""

    count: int = Field(default=1, ge=1, le=100)
    """How many different people."""
    not_promoter: bool = True
    """Who promotes does not count."""


class Signature(Frozen):
    """The version is signed by a key or an identity that is trusted here."""

    keys: tuple[str, ...] = ()
    """Ids of keys (or beginnings of them): one of these. None: any that is trusted."""


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

    resume: Resume | None = None
    """A certificate of `vila verify resume`."""
    export: Export | None = None
    """A certificate of `vila registry export`."""
    licences: Licences | None = None
    """The licences of the training corpora."""
    approvals: Approvals | None = None
    """People who approved."""
    signature: Signature | None = None
    """Who signed the version."""

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
POLICIES = ("resume", "export", "licences", "approvals", "signature")
KINDS = ("metric", "non_inferior", "superior", *POLICIES)
