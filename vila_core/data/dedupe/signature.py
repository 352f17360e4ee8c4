"""Signatures: all that is ever compared of a sample, as 64-bit hashes. Made by workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vila_core.data.dedupe.config import DedupeConfig
from vila_core.data.dedupe.perceptual import phash, phash_of
from vila_core.data.dedupe.text import grams, hash_bytes, normalised
from vila_core.data.sample import Part, Sample, Text
from vila_core.jsonio import dumps

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_NONE = np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Signature:
    """A sample in hashes: some 8 bytes per word and 16 per image. Picklable."""

    content: int  # the first 64 bits of Sample.digest
    text: int  # roles, places of images, and the text as `normalised`
    images: np.ndarray  # (M,) uint64, the first 64 bits of the sha256 of each image's bytes
    phashes: np.ndarray  # (M,) uint64; (0,) where images are not compared by pHash
    grams: np.ndarray  # (G,) uint64, each n-gram of the text once, sorted; (0,) if not compared


class Signer:
    """Makes signatures as the config asks."""

    def __init__(self, config: DedupeConfig) -> None:
        self._perceptual = config.perceptual
        self._size = config.words if config.text else None

    def __call__(self, sample: Sample, pictures: Sequence[Picture] | None = None) -> Signature:
        """Return a sample's signature. Raises BadImage for an image that can't be decoded.

        `pictures` are its images where they were decoded already, which saves doing it again.
        """
        images = sample.images
        if pictures is not None and self._perceptual:
            phashes = np.array([phash_of(picture) for picture in pictures], np.uint64)
        else:
            phashes = self.phashes(images)
        return Signature(
            content=int(sample.digest[:16], 16),
            text=text_hash(sample.parts),
            images=np.fromiter(map(image_hash, images), dtype=np.uint64, count=len(images)),
            phashes=phashes,
            grams=self.grams(_joined(sample.parts)),
        )

    def phashes(self, images: Iterable[bytes]) -> np.ndarray:
        """Return the pHash of each image (M,) uint64; (0,) where they are not compared so."""
        return np.array([phash(image) for image in images] if self._perceptual else [], np.uint64)

    def grams(self, text: str) -> np.ndarray:
        """Return each n-gram of a text once, sorted (G,) uint64; (0,) where none are compared."""
        return _NONE if self._size is None else np.unique(grams(text, self._size))


def image_hash(data: bytes) -> int:
    """Return the first 64 bits of the sha256 of an image's bytes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def text_hash(parts: Iterable[Part]) -> int:
    """Return a hash of the order of parts, their roles, and their text as `normalised`."""
    shape: list[list[str]] = []
    for part in parts:
        text = normalised(part.text) if isinstance(part, Text) else None
        shape.append([part.role] if text is None else [part.role, text])
    return hash_bytes(dumps(shape).encode("utf-8", "surrogatepass"))


def _joined(parts: Iterable[Part]) -> str:
    """Return all text of a sample in a row: a question broken by an image is still one question."""
    return " ".join(part.text for part in parts if isinstance(part, Text))
