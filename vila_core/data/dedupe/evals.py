"""Evaluation sets as what training samples must not contain: their images and their texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.hamming import HammingIndex
from vila_core.data.dedupe.perceptual import FLAT
from vila_core.data.dedupe.seen import FirstSeen, Keys
from vila_core.data.dedupe.signature import Signature, Signer, image_hash
from vila_core.data.dedupe.text import words
from vila_core.data.dedupe.verdict import EVAL_IMAGE, EVAL_TEXT, Verdict
from vila_core.errors import UserError
from vila_core.images import BadImage

_COMMON = 10  # an n-gram of so few items is never taken for boilerplate


@dataclass(frozen=True)
class EvalItem:
    """One question of an evaluation set: its texts (question, answer) and its encoded images."""

    key: str
    texts: tuple[str, ...]
    images: tuple[bytes, ...]


@dataclass(frozen=True)
class Learned:
    """What of an evaluation set is compared. `texts` leaves out short ones and boilerplate."""

    items: int
    images: int
    texts: int

    @property
    def nothing(self) -> bool:
        """Whether no sample can ever be found to stand in this set."""
        return not self.images and not self.texts


class EvalSets:
    """All evaluation sets to compare with."""

    def __init__(self, config: DedupeConfig) -> None:
        self._config, self._signer = config, Signer(config)
        self._items = Keys()
        self._bytes = FirstSeen()  # sha256 of an image -> item
        self._looks = HammingIndex(config.distance)
        self._looks_item: list[int] = []
        self._texts = _Texts(config)

    def learn(self, name: str, items: Iterable[EvalItem]) -> Learned:
        """Take in an evaluation set. Raises UserError for an image that can't be decoded."""
        texts: list[tuple[int, np.ndarray]] = []
        count = images = 0
        for item in items:
            number = self._items.append(f"{name}/{item.key}")
            count, images = count + 1, images + len(item.images)
            for image in item.images:
                self._bytes.set(image_hash(image), number)
            try:
                hashes = [value for value in self._signer.phashes(item.images).tolist()]
            except BadImage as error:
                raise UserError(
                    f"evaluation set '{name}', item '{item.key}': {error}; mend the image or drop "
                    "the item"
                ) from None
            hashes = [value for value in hashes if value not in FLAT]
            self._looks.add(np.array(hashes, dtype=np.uint64))
            self._looks_item += [number] * len(hashes)
            for text in item.texts:
                if self._config.text and len(words(text)) >= self._config.shortest:
                    texts.append((number, self._signer.grams(text)))
        return Learned(count, images, self._texts.learn(texts, count))

    def find(self, signatures: Sequence[Signature]) -> list[Verdict | None]:
        """Return for each signature in which evaluation set it stands, or None."""
        looks = self._look_alikes(signatures)
        texts = self._texts.sharing(signatures)
        start, verdicts = 0, []
        for place, signature in enumerate(signatures):
            stop = start + len(signature.phashes)
            verdicts.append(
                self._by_bytes(signature)
                or self._by_looks(signature, looks[start:stop])
                or (self._by_text(signature) if place in texts else None)
            )
            start = stop
        return verdicts

    def _look_alikes(self, signatures: Sequence[Signature]) -> list[int]:
        """Return for every image of every signature the evaluation image it looks like, or -1."""
        hashes = _concatenated([one.phashes for one in signatures])
        if not len(self._looks) or not len(hashes):
            return [-1] * len(hashes)
        return self._looks.first(hashes).tolist()

    def _by_bytes(self, signature: Signature) -> Verdict | None:
        if not len(self._bytes):
            return None
        for place, value in enumerate(signature.images.tolist()):
            item = self._bytes.get(value)
            if item is not None:
                other = self._items[item]
                which = _nth(place, len(signature.images))
                return Verdict("contaminated", EVAL_IMAGE, f"{which} is one of {other}", other)
        return None

    def _by_looks(self, signature: Signature, alike: Sequence[int]) -> Verdict | None:
        for place, match in enumerate(alike):
            if match < 0:
                continue
            value = int(signature.phashes[place])
            other = self._items[self._looks_item[match]]
            bits = (value ^ self._looks[match]).bit_count()
            which = _nth(place, len(signature.phashes))
            text = f"{which} looks like one of {other}: {bits} of 64 bits differ"
            return Verdict("contaminated", EVAL_IMAGE, text, other)
        return None

    def _by_text(self, signature: Signature) -> Verdict | None:
        found = self._texts.find(signature.grams)
        if found is None:
            return None
        item, share = found
        other = self._items[item]
        text = f"holds {share:.0%} of the {self._config.words}-grams of a text of {other}"
        return Verdict("contaminated", EVAL_TEXT, text, other)


class _Texts:
    """Texts as sets of n-grams, and in which texts an n-gram stands."""

    def __init__(self, config: DedupeConfig) -> None:
        self._share, self._boilerplate = config.share, config.boilerplate
        self._learned: list[np.ndarray] = []
        self._items: list[int] = []
        self._table: _Table | None = None

    def learn(self, texts: Sequence[tuple[int, np.ndarray]], items: int) -> int:
        """Take in a set's texts, each with its item; returns how many can be compared."""
        by_item: dict[int, list[np.ndarray]] = {}
        for item, grams in texts:
            by_item.setdefault(item, []).append(grams)
        each_once = [np.unique(np.concatenate(grams)) for grams in by_item.values()]
        values, counts = np.unique(_concatenated(each_once), return_counts=True)
        common = values[counts > max(_COMMON, self._boilerplate * items)]
        taken = 0
        for item, grams in texts:
            telling = np.setdiff1d(grams, common, assume_unique=True)
            if len(telling):
                self._learned.append(telling)
                self._items.append(item)
                taken += 1
        self._table = None
        return taken

    def sharing(self, signatures: Sequence[Signature]) -> set[int]:
        """Return the places of the signatures that share an n-gram with any text: mostly none."""
        if not self._learned:
            return set()
        ends = np.cumsum([len(one.grams) for one in signatures])
        known = self._known.holds(_concatenated([one.grams for one in signatures]))
        return set(np.searchsorted(ends, np.flatnonzero(known), side="right").tolist())

    def find(self, grams: np.ndarray) -> tuple[int, float] | None:
        """Return the item whose text stands in a sample with these n-grams, and its share."""
        texts, hits = self._known.hits(grams)
        shares = hits / self._known.sizes[texts]
        if not len(texts) or shares.max() < self._share:
            return None
        best = int(shares.argmax())  # the first of the largest: texts are in ascending order
        return self._items[int(texts[best])], float(shares[best])

    @property
    def _known(self) -> _Table:
        if self._table is None:
            self._table = _Table(self._learned)
        return self._table


class _Table:
    """Sorted n-grams; `texts[start[g] : start[g + 1]]` are the texts that hold n-gram g."""

    def __init__(self, learned: Sequence[np.ndarray]) -> None:
        self.sizes = np.array([len(grams) for grams in learned], dtype=np.int64)
        every = np.concatenate(learned)
        order = np.argsort(every, kind="stable")
        self._texts = np.repeat(np.arange(len(learned)), self.sizes)[order].astype(np.int32)
        self._grams, starts = np.unique(every[order], return_index=True)
        self._start = np.append(starts, len(every))

    def holds(self, grams: np.ndarray) -> np.ndarray:
        """Return which n-grams (G,) stand in a text, (G,) bool."""
        places = np.searchsorted(self._grams, grams)
        places[places == len(self._grams)] = 0
        return self._grams[places] == grams

    def hits(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the texts (T,) that share n-grams with `grams` (each once), and how many (T,)."""
        places = np.searchsorted(self._grams, grams[self.holds(grams)])
        parts = [self._texts[self._start[p] : self._start[p + 1]] for p in places.tolist()]
        return np.unique(_concatenated(parts), return_counts=True)


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


def _nth(place: int, count: int) -> str:
    return "its image" if count == 1 else f"image {place + 1} of {count}"
