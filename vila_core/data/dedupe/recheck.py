"""Compare prepared corpora with evaluation sets again, by their signatures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.evals import EvalItem, EvalSets, Learned
from vila_core.data.dedupe.table import FILE_NAME, blocks, scheme
from vila_core.data.dedupe.verdict import Finding
from vila_core.errors import UserError

_EXAMPLES = 100


@dataclass
class Recheck:
    """What a re-check found."""

    samples: int = 0
    evals: dict[str, Learned] = field(default_factory=dict)
    contaminated: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples by (corpus, reason)."""
    examples: list[Finding] = field(default_factory=list)
    """The first findings."""

    @property
    def found(self) -> int:
        """Samples that stand in an evaluation set."""
        return self.contaminated.total()

    def to_json(self) -> dict[str, Any]:
        """Return counts and the first findings."""
        corpora: dict[str, dict[str, int]] = {}
        for (corpus, reason), count in sorted(self.contaminated.items()):
            corpora.setdefault(corpus, {})[reason] = count
        return {
            "samples": self.samples,
            "evals": {name: vars(learned) for name, learned in self.evals.items()},
            "contaminated": corpora,
            "examples": [
                {"key": one.key, "reason": one.verdict.reason, "detail": one.verdict.detail}
                for one in self.examples
            ],
        }


def recheck(
    corpora: Mapping[str, tuple[Path, Callable[[int], str]]],
    evals: Mapping[str, Iterable[EvalItem]],
    config: DedupeConfig,
) -> Recheck:
    """Look for samples of prepared corpora in evaluation sets, in flat memory, without an image.

    `corpora` are folders that hold `signatures.npz`, each with what turns a row of it into a sample
    key (`Corpus.key`). `config` is the one that they were prepared with, but for thresholds.
    Raises UserError for a corpus without signatures or with others than `config` makes, Damaged for
    a file that can't be read.
    """
    wanted = scheme(config)
    for name, (folder, _) in corpora.items():
        if not (folder / FILE_NAME).is_file():
            raise UserError(
                f"corpus '{name}': there is no {folder / FILE_NAME}, so that it can't be compared "
                "with evaluation sets; prepare it again"
            )
    found, sets = Recheck(), EvalSets(config)
    for name, items in evals.items():
        found.evals[name] = sets.learn(name, items)
    for name, (folder, key) in corpora.items():
        start = 0
        for table in blocks(folder / FILE_NAME):
            if table.scheme != wanted:
                raise UserError(
                    f"corpus '{name}': {folder / FILE_NAME} was made with ({table.scheme}), asked "
                    f"is ({wanted}); set dedupe as it was, or prepare the corpus again"
                )
            for row, verdict in enumerate(sets.find(list(table)), start=start):
                if verdict is None:
                    continue
                found.contaminated[name, verdict.reason] += 1
                if len(found.examples) < _EXAMPLES:
                    found.examples.append(Finding(key(row), verdict))
            start += len(table)
        found.samples += start
    return found
