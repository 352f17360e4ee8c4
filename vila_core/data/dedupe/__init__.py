"""Duplicates, and samples that stand in an evaluation set: found before training.

Workers make a `Signature` of each sample (`Signer`), the main process asks the `Judge` in the
order of the samples; `Signatures` keep them beside the index, so that `recheck` can compare with
evaluation sets that come later.
"""

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.evals import EvalItem, EvalSets, Learned
from vila_core.data.dedupe.judge import Judge
from vila_core.data.dedupe.recheck import Recheck, recheck
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
