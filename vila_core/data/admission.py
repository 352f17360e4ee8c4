"""Which of a corpus's samples come into the shards, as far as that hangs on the others.

The one place where samples meet: takedowns, limits over samples, duplicates, evaluation sets. It is
asked in the order of the samples, so that the answers depend on nothing but the data.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vila_core.data.dedupe import DedupeConfig, Judge, Signatures, SignaturesBuilder, join
from vila_core.data.repeats import Prints, Repeats
from vila_core.data.rules import Rules
from vila_core.data.sample import Group, SetAside
from vila_core.data.work import Made

EXCLUDED = "excluded"


@dataclass(frozen=True)
class Answer:
    """A sample, or why it isn't admitted; `passed` counts findings that were only to be told."""

    row: Made | SetAside
    passed: Counter[str] = field(default_factory=Counter)


class Admission:
    """Decides for one corpus. `judge` is shared by all corpora of a stage; None compares nothing.

    What `keep` was told since the last `save` is what `save` writes; `restore` reads it back.
    """

    def __init__(
        self,
        corpus: str,
        *,
        judge: Judge | None,
        dedupe: DedupeConfig | None,
        rules: Rules,
        exclude: frozenset[str],
    ) -> None:
        self._corpus, self._judge, self._exclude = corpus, judge, exclude
        self._repeats = Repeats(rules)
        self._reports = dedupe is not None and dedupe.decontaminate == "report"
        self._signatures = SignaturesBuilder(dedupe) if dedupe else None
        self._prints: list[Prints] = []
        self._parts: list[Path] = []

    def admit(self, rows: Sequence[Made | SetAside]) -> list[Answer]:
        """Return which samples come in. Those that do are remembered."""
        some = [self._named(row) for row in rows]
        if self._repeats.on or self._reports:  # one uses up what the next can't have
            return [self._alone(row) for row in some]
        return [Answer(row) for row in self._judged(some)]  # several times as fast

    def keep(self, made: Made) -> None:
        """Note a sample that is in the shards now."""
        if self._signatures is not None and made.signature is not None:
            self._signatures.add(made.signature)
        if self._repeats.on and made.prints is not None:
            self._prints.append(made.prints)

    def save(self, folder: Path, number: int) -> None:
        """Write what was kept since the last time, as part `number`."""
        if self._signatures is not None:
            path = _signatures(folder, number)
            self._signatures.build().save(path)
            _sync(path)
            self._parts.append(path)
            self._signatures.clear()
        if self._repeats.on:
            path = _prints(folder, number)
            counts = [len(prints.images) for prints in self._prints]
            images = [image for prints in self._prints for image in prints.images]
            texts = [(prints.text is not None, prints.text or 0) for prints in self._prints]
            with path.open("wb") as file:
                np.savez(
                    file,
                    counts=np.array(counts, np.int64),
                    images=np.array(images, np.uint64),
                    texts=np.array([text for _, text in texts], np.uint64),
                    has_text=np.array([has for has, _ in texts], bool),
                )
            _sync(path)
            self._prints.clear()

    def restore(self, folder: Path, number: int, keys: Sequence[str]) -> None:
        """Remember the samples of part `number`, whose keys are `keys`, as those kept before."""
        if self._signatures is not None:
            path = _signatures(folder, number)
            if self._judge is not None:
                self._judge.restore_many(keys, Signatures.load(path))
            self._parts.append(path)
        if self._repeats.on:
            with np.load(_prints(folder, number), allow_pickle=False) as arrays:
                ends = np.cumsum(arrays["counts"])
                images, texts, has_text = arrays["images"], arrays["texts"], arrays["has_text"]
                for row, end in enumerate(ends.tolist()):
                    start = end - int(arrays["counts"][row])
                    text = int(texts[row]) if has_text[row] else None
                    self._repeats.keep(Prints(tuple(images[start:end].tolist()), text))

    def finish(self, path: Path) -> bool:
        """Write the signatures of the whole corpus to `path`; return whether there are any."""
        if self._signatures is None:
            return False
        join([*self._parts, self._signatures.build()], path)
        return True

    def _aside(self, row: Made, reason: str, detail: str, group: Group) -> SetAside:
        return SetAside(self._corpus, row.packed.key, reason, detail, group, row.kind)

    def _named(self, row: Made | SetAside) -> Made | SetAside:
        if isinstance(row, Made) and row.packed.key in self._exclude:
            return self._aside(row, EXCLUDED, "named by `exclude`", "rule")
        return row

    def _alone(self, row: Made | SetAside) -> Answer:
        if not isinstance(row, Made):
            return Answer(row)
        problem = self._repeats.check(row.prints) if row.prints else None
        if problem is not None:
            return Answer(self._aside(row, problem.reason, problem.detail, "rule"))
        before = Counter(self._judge.reported) if self._judge else Counter[str]()
        (judged,) = self._judged([row])
        if isinstance(judged, Made) and row.prints:
            self._repeats.keep(row.prints)
        after = Counter(self._judge.reported) if self._judge else Counter[str]()
        return Answer(judged, after - before)

    def _judged(self, rows: Sequence[Made | SetAside]) -> list[Made | SetAside]:
        if self._judge is None:
            return list(rows)
        made = [(row, row.signature) for row in rows if isinstance(row, Made) and row.signature]
        verdicts = iter(
            self._judge.check_many(
                [row.packed.key for row, _ in made], [signature for _, signature in made]
            )
        )
        judged: list[Made | SetAside] = []
        for row in rows:
            verdict = next(verdicts) if isinstance(row, Made) and row.signature else None
            if verdict is not None and isinstance(row, Made):
                row = self._aside(row, verdict.reason, verdict.detail, verdict.group)
            judged.append(row)
        return judged


def _signatures(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.signatures.npz"


def _prints(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.prints.npz"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
