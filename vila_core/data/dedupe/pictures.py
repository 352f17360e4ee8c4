"""Which images show one picture: the first image of a picture stands for all that look like it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.hamming import HammingIndex
from vila_core.data.dedupe.perceptual import FLAT
from vila_core.data.dedupe.seen import FirstSeen
from vila_core.data.dedupe.signature import Signature


@dataclass
class Shown:
    """The pictures of a sample, one entry per image."""

    pictures: list[int] = field(default_factory=list)  # 64 bits; equal for look-alikes
    rows: list[int | None] = field(default_factory=list)  # the admitted sample that had it first
    new: list[int] = field(default_factory=list)  # places in the batch of pictures seen first


class Pictures:
    """The pictures of all admitted samples, looked up a batch of samples at a time.

    `begin` a batch, `shown` for each of its samples in order, `admit` those that are kept, `end`.
    An image is compared by its pHash; by its bytes where those aren't compared, or if it is flat.
    """

    def __init__(self, config: DedupeConfig) -> None:
        self._perceptual = config.perceptual
        self._keep_bytes = config.repeated_images == "set-aside"
        self._bytes = FirstSeen()
        self._looks = HammingIndex(config.distance)
        self._row = array("L")  # number in _looks -> row
        self._hashes, self._starts = np.zeros(0, dtype=np.uint64), [0]
        self._known: list[int] = []  # for each image of the batch: number in _looks, or -1
        self._earlier: dict[int, list[int]] = {}
        self._added: dict[int, int] = {}  # place in the batch -> number in _looks

    def begin(self, signatures: Sequence[Signature]) -> None:
        """Look up all images of a batch of samples."""
        self._added, self._earlier, self._known = {}, {}, []
        if not self._perceptual or not signatures:
            return
        self._starts = [0, *np.cumsum([len(one.phashes) for one in signatures]).tolist()]
        self._hashes = np.concatenate([one.phashes for one in signatures])
        found = self._looks.first(self._hashes)
        self._known = found.tolist()
        fresh = found < 0
        for flat in FLAT:
            fresh &= self._hashes != np.uint64(flat)
        self._earlier = self._looks.pairs(self._hashes, fresh)

    def shown(self, place: int, signature: Signature) -> Shown:
        """Return the pictures of the batch's sample `place`."""
        shown = Shown()
        start = self._starts[place] if self._perceptual else 0
        for number, value in enumerate(signature.images.tolist()):
            image = start + number
            if not self._perceptual or int(self._hashes[image]) in FLAT:
                shown.pictures.append(value)
                shown.rows.append(self._bytes.get(value) if self._keep_bytes else None)
                continue
            match = self._known[image]
            if match >= 0:
                shown.pictures.append(self._looks[match])
                shown.rows.append(self._row[match])
                continue
            earlier = self._earlier.get(image, ())
            leader = next((one for one in earlier if one in self._added or one in shown.new), image)
            if leader == image:
                shown.new.append(image)
            shown.pictures.append(int(self._hashes[leader]))
            known = self._added.get(leader)
            shown.rows.append(None if known is None else self._row[known])
        return shown

    def admit(self, shown: Shown, signature: Signature, row: int) -> None:
        """Remember the pictures of a sample that is kept as `row`."""
        for image in shown.new:
            self._added[image] = len(self._row)
            self._row.append(row)
        if self._keep_bytes:
            for value in signature.images.tolist():
                self._bytes.set(value, row)

    def end(self) -> None:
        """Make what was admitted known to later batches."""
        self._looks.add(self._hashes[list(self._added)])
