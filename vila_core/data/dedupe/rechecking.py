"""Compare prepared corpora with evaluation sets again, by their signatures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vila_core.data.cache import ShardCache
from vila_core.data.corpus import Corpus
from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.evals import EvalItem, EvalSets, Learned
from vila_core.data.dedupe.table import FILE_NAME, MANIFEST_KEY, Signatures, blocks, config_of
from vila_core.data.dedupe.verdict import Finding
from vila_core.data.location import Location, locate
from vila_core.errors import Damaged, UserError

_EXAMPLES = 100


@dataclass
class Recheck:
    """What a re-check found."""

    corpora: dict[str, int] = field(default_factory=dict)
    """Samples compared, by corpus."""
    evals: dict[str, Learned] = field(default_factory=dict)
    contaminated: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples by (corpus, reason)."""
    examples: list[Finding] = field(default_factory=list)
    """The first findings."""

    @property
    def found(self) -> int:
        """Samples that stand in an evaluation set."""
        return self.contaminated.total()

    @property
    def samples(self) -> int:
        """Samples compared."""
        return sum(self.corpora.values())

    def to_json(self) -> dict[str, Any]:
        """Return counts and the first findings."""
        counts: dict[str, dict[str, int]] = {}
        for (corpus, reason), count in sorted(self.contaminated.items()):
            counts.setdefault(corpus, {})[reason] = count
        return {
            "samples": self.corpora,
            "evals": {name: vars(learned) for name, learned in self.evals.items()},
            "contaminated": counts,
            "examples": [
                {"key": one.key, "reason": one.verdict.reason, "detail": one.verdict.detail}
                for one in self.examples
            ],
        }


def recheck(
    corpora: Iterable[str | Path | Location],
    evals: Mapping[str, Iterable[EvalItem]],
) -> Recheck:
    """Look for samples of prepared corpora in evaluation sets, in flat memory, without an image.

    `corpora` are where prepare wrote them; each is compared by the config that it was prepared
    with. `evals` are gone through once for each such config. Raises UserError for a corpus without
    signatures or with others than this version makes, Damaged for a file that can't be read.
    """
    found = Recheck()
    sets: dict[DedupeConfig, EvalSets] = {}
    for location in corpora:
        corpus = Corpus.open(location)
        start = 0
        for table in _tables(corpus, locate(location)):
            config = _config(corpus, table)
            if config not in sets:
                sets[config] = EvalSets(config)
                for name, items in evals.items():
                    found.evals[name] = sets[config].learn(name, items)
            for row, verdict in enumerate(sets[config].find(list(table)), start=start):
                if verdict is None:
                    continue
                found.contaminated[corpus.name, verdict.reason] += 1
                if len(found.examples) < _EXAMPLES:
                    found.examples.append(Finding(corpus.key(row), verdict))
            start += len(table)
        if start != len(corpus):
            where = f"{corpus.uri}/{FILE_NAME}"
            raise Damaged(f"{where}: holds {start} samples, the index {len(corpus)}")
        found.corpora[corpus.name] = found.corpora.get(corpus.name, 0) + start
    return found


def _tables(corpus: Corpus, where: Location) -> Iterator[Signatures]:
    sha256 = corpus.manifest.get(MANIFEST_KEY)
    if sha256 is None:
        raise UserError(
            f"corpus '{corpus.name}' ({where.uri}): was prepared without {FILE_NAME}, so that it "
            "can't be compared with evaluation sets; prepare it again"
        )
    source = where.file(FILE_NAME, sha256, None)
    opened = source if isinstance(source, Path) else ShardCache.from_environment().open(source)
    with open(opened, "rb") as file:
        yield from blocks(file, f"{where.uri}/{FILE_NAME}")


def _config(corpus: Corpus, table: Signatures) -> DedupeConfig:
    try:
        return config_of(table.scheme)
    except ValueError as error:
        raise UserError(
            f"corpus '{corpus.name}': {FILE_NAME} can't be compared by this version ({error}); "
            "prepare the corpus again"
        ) from None
