"""The pHash of an image, bit by bit the library ImageHash's: it survives resizing and recoding."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vila_core.data.dedupe.cosine import SIDE, dct2
from vila_core.images import decode

METHOD = "imagehash.phash 8x8, decoded at 128 px or more"
_SIDE = 128
"""pHash looks at 32 by 32 pixels: a JPEG needs no more than this, and decodes 4 times faster."""
FLAT = frozenset({0, 1 << 63})
"""Hashes of images in one colour. They tell nothing, so that such images count by their bytes."""


def phash(data: bytes) -> int:
    """Return the pHash of an encoded image, its first bit the highest. Raises BadImage."""
    return _bits(decode(data, at_least=_SIDE))


def phash_of(image: Image.Image) -> int:
    """Return the pHash of an image that was decoded at some larger scale already.

    It may differ from `phash` of the file in a bit or so, as scales of one picture do.
    """
    factor = min(image.size) // _SIDE
    return _bits(image.reduce(factor) if factor > 1 else image)


def _bits(image: Image.Image) -> int:
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    lowest = dct2(np.asarray(small))[:8, :8]
    bits = lowest > np.median(lowest)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
