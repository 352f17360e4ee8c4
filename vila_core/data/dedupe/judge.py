"""The judge: admits samples one after the other, and says which repeat what."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.evals import EvalItem, EvalSets, Learned
from vila_core.data.dedupe.pictures import Pictures, Shown
from vila_core.data.dedupe.seen import FirstSeen, Keys
from vila_core.data.dedupe.signature import Signature
from vila_core.data.dedupe.text import hash_bytes
from vila_core.data.dedupe.verdict import DUPLICATE, NEAR, REPEATED, Finding, Verdict

_BATCH = 512
_EXAMPLES = 1000


class Judge:
    """Compares each sample with those admitted before it, of all corpora, and with evaluation sets.

    The first of its kind wins. What is not admitted is not remembered either. The verdicts depend
    on the order of samples alone, not on how calls cut it. Some 140 bytes a sample with an image.
    """

    def __init__(self, config: DedupeConfig) -> None:
        self._config = config
        self._evals = EvalSets(config) if config.decontaminate != "off" else None
        self._keys = Keys()
        self._content, self._near = FirstSeen(), FirstSeen()  # hash -> row in _keys
        self._pictures = Pictures(config)
        self.reported: Counter[str] = Counter()
        """Samples admitted although contaminated (`decontaminate: report`), by reason."""
        self.examples: list[Finding] = []
        """The first of them."""

    def __len__(self) -> int:
        return len(self._keys)

    def learn_eval(self, name: str, items: Iterable[EvalItem]) -> Learned | None:
        """Take in an evaluation set; None where nothing is to be compared with it.

        Raises UserError for an image of it that can't be decoded.
        """
        return None if self._evals is None else self._evals.learn(name, items)

    def check(self, key: str, signature: Signature) -> Verdict | None:
        """Return why a sample is not admitted; None if it is, and it is remembered then."""
        return self.check_many([key], [signature])[0]

    def check_many(
        self, keys: Sequence[str], signatures: Sequence[Signature]
    ) -> list[Verdict | None]:
        """Do what `check` does for one after the other, several times as fast."""
        verdicts: list[Verdict | None] = []
        for start in range(0, len(keys), _BATCH):
            some = slice(start, start + _BATCH)
            verdicts += self._check(keys[some], signatures[some])
        return verdicts

    def restore(self, key: str, signature: Signature) -> None:
        """Remember a sample that was admitted before: call it in the order of that time."""
        self.restore_many([key], [signature])

    def restore_many(self, keys: Sequence[str], signatures: Iterable[Signature]) -> None:
        """Do what `restore` does for one after the other, several times as fast."""
        rest = iter(signatures)
        for start in range(0, len(keys), _BATCH):
            some = keys[start : start + _BATCH]
            batch = list(itertools.islice(rest, len(some)))
            self._pictures.begin(batch)
            for place, (key, signature) in enumerate(zip(some, batch, strict=True)):
                self._admit(key, signature, self._pictures.shown(place, signature))
            self._pictures.end()

    def _check(self, keys: Sequence[str], signatures: Sequence[Signature]) -> list[Verdict | None]:
        found = self._evals.find(signatures) if self._evals else [None] * len(keys)
        block = self._config.decontaminate == "block"
        verdicts: list[Verdict | None] = []
        self._pictures.begin(signatures)
        for place, (key, signature) in enumerate(zip(keys, signatures, strict=True)):
            contaminated = found[place]
            shown = self._pictures.shown(place, signature)
            verdict = contaminated if block else None
            verdict = verdict or self._repeats(signature, shown)
            if verdict is None:
                self._admit(key, signature, shown)
                if contaminated:
                    self._report(key, contaminated)
            verdicts.append(verdict)
        self._pictures.end()
        return verdicts

    def _repeats(self, signature: Signature, shown: Shown) -> Verdict | None:
        """Return which admitted sample this one repeats, if any."""
        if self._config.exact:
            row = self._content.get(signature.content)
            if row is not None:
                return self._duplicate(DUPLICATE, "has the content of", row)
        if self._config.near:
            row = self._near.get(_near_hash(signature, shown))
            if row is not None:
                what = "text and images" if shown.pictures else "text"
                return self._duplicate(NEAR, f"has nearly the {what} of", row)
        if self._config.repeated_images == "set-aside":
            rows = [row for row in shown.rows if row is not None]
            if rows and len(rows) == len(shown.rows):
                return self._duplicate(REPEATED, "shows nothing new, first", rows[0])
        return None

    def _duplicate(self, reason: str, text: str, row: int) -> Verdict:
        other = self._keys[row]
        return Verdict("duplicate", reason, f"{text} {other}", other)

    def _admit(self, key: str, signature: Signature, shown: Shown) -> None:
        if not self._config.finds_duplicates:
            return
        row = self._keys.append(key)
        if self._config.exact:
            self._content.set(signature.content, row)
        if self._config.near:
            self._near.set(_near_hash(signature, shown), row)
        self._pictures.admit(shown, signature, row)

    def _report(self, key: str, verdict: Verdict) -> None:
        self.reported[verdict.reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(Finding(key, verdict))


def _near_hash(signature: Signature, shown: Shown) -> int:
    """Return a hash of text and pictures, in their order."""
    values = (signature.text, *shown.pictures)
    return hash_bytes(b"".join(value.to_bytes(8, "little") for value in values))
