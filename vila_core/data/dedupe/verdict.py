"""What the judge and the re-check find: which sample repeats what, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DUPLICATE, NEAR, REPEATED = "duplicate", "near duplicate", "repeated images"
EVAL_IMAGE, EVAL_TEXT = "image of an evaluation set", "text of an evaluation set"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a sample is not admitted. `other` is the key of what it repeats, `detail` says it all."""

    group: Literal["duplicate", "contaminated"]
    reason: str
    detail: str
    other: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict on the sample of this key that did not keep it out."""

    key: str
    verdict: Verdict
