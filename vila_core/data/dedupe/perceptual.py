"""The pHash of an image, by the library ImageHash: 64 bits that survive resizing and recoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vila_core.errors import require
from vila_core.images import decode

if TYPE_CHECKING:
    from PIL import Image

METHOD = "imagehash.phash 8x8, decoded at 128 px or more"
_SIDE = 128
"""pHash looks at 32 by 32 pixels: a JPEG needs no more than this, and decodes 4 times faster."""
FLAT = frozenset({0, 1 << 63})
"""Hashes of images in one colour. They tell nothing, so that such images count by their bytes."""


def require_library() -> None:
    """Raise UserError if ImageHash is missing. It needs SciPy, so that it is an extra."""
    require(
        "imagehash",
        extra="dedupe",
        why="compare images by how they look (dedupe.perceptual=false compares bytes alone)",
    )


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
    import imagehash  # brings SciPy

    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
