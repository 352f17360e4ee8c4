"""Duplicates, and samples that stand in an evaluation set: found before training.

Workers make a `Signature` of each sample (`Signer`), the main process asks the `Judge` in the
order of the samples; `Signatures` keep them beside the index, so that `recheck` can compare with
evaluation sets that come later.

Names are imported on first use: reading a stage's config needs no numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vila_core.data.dedupe.config import DedupeConfig
    from vila_core.data.dedupe.evals import EvalItem, EvalSets, Learned
    from vila_core.data.dedupe.judge import Judge
    from vila_core.data.dedupe.rechecking import Recheck, recheck
    from vila_core.data.dedupe.signature import Signature, Signer
    from vila_core.data.dedupe.table import (
        FILE_NAME,
        MANIFEST_KEY,
        Signatures,
        SignaturesBuilder,
        blocks,
        join,
    )
    from vila_core.data.dedupe.verdict import Finding, Verdict

_HOME = {
    "DedupeConfig": "config",
    "EvalItem": "evals",
    "EvalSets": "evals",
    "FILE_NAME": "table",
    "Finding": "verdict",
    "Judge": "judge",
    "Learned": "evals",
    "MANIFEST_KEY": "table",
    "Recheck": "rechecking",
    "Signature": "signature",
    "Signatures": "table",
    "SignaturesBuilder": "table",
    "Signer": "signature",
    "Verdict": "verdict",
    "blocks": "table",
    "join": "table",
    "recheck": "rechecking",
}
__all__ = [
    "FILE_NAME",
    "MANIFEST_KEY",
    "DedupeConfig",
    "EvalItem",
    "EvalSets",
    "Finding",
    "Judge",
    "Learned",
    "Recheck",
    "Signature",
    "Signatures",
    "SignaturesBuilder",
    "Signer",
    "Verdict",
    "blocks",
    "join",
    "recheck",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
