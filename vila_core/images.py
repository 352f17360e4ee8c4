"""Check and decode encoded images. Nothing a file claims is trusted before it was looked at."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: some 150 MB of pixels in RGB."""
MAX_SIDE = 16_384
"""So are those with a longer side: padded to a square, 8 x 6,000,000 pixels would be 100 TB."""
MIN_SIDE = 8
"""Images with a shorter side below this many pixels are tracking dots and spacers."""
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
"""Accepted formats with their file extension. Pillow can open more, some by starting programs."""

_ANY = 2**62
TRUNCATED, NOT_AN_IMAGE = "truncated", "not an image"
TOO_LARGE, TOO_SMALL = "too large", "too small"


class BadImage(ValueError):
    """An image that can't be used.

    `reason` is one of `truncated`, `not an image`, `too large`, `too small`; `detail` says more.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


def check(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> str:
    """Decode an encoded image once and return its file extension, for example "jpg".

    Raises BadImage. The size is judged by the header alone, so that a decompression bomb costs
    nothing.
    """
    image = _headed(data, max_pixels, min_side)
    _rgb(image)  # all that `decode` does: what passes here must not fail in a training
    return _kind(image)


def check_header(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> str:
    """Do what `check` does, but for the pixels: a truncated image passes."""
    return _kind(_headed(data, max_pixels, min_side))


def _headed(data: bytes, max_pixels: int, min_side: int) -> Image.Image:
    image = _open(data, max_pixels)
    if min(image.size) < min_side:
        raise BadImage(TOO_SMALL, f"{_size(image)} pixels; each side needs at least {min_side}")
    return image


def size(data: bytes) -> tuple[int, int]:
    """Return width and height by an image's header alone, as stored. Raises BadImage."""
    return _open(data, _ANY).size


def extension(data: bytes) -> str:
    """Return the file extension of an encoded image by its header alone. Raises BadImage."""
    return _kind(_open(data, _ANY))


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int = 0) -> Image.Image:
    """Return an encoded image as RGB, upright (EXIF), transparency laid over white.

    With `at_least`, a JPEG may come back 2, 4 or 8 times smaller, decoded at that scale, as long as
    its shorter side keeps `at_least` pixels. Raises BadImage. Of an animation the first frame is
    taken.
    """
    image = _open(data, max_pixels)
    if at_least and min(image.size) >= 2 * at_least:
        image.draft(None, (at_least, at_least))  # only JPEG has scales; no-op for the others
    return _rgb(image)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is judged below; damaged tags don't matter
            image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except UnidentifiedImageError:
        start = data[:8].hex(" ") or "no bytes at all"
        raise BadImage(NOT_AN_IMAGE, f"{len(data)} bytes, starting {start}") from None
    except Image.DecompressionBombError:
        raise BadImage(TOO_LARGE, f"more than {max_pixels:,} pixels") from None
    except Exception as error:  # on damaged bytes Pillow's plugins raise whatever comes
        raise BadImage(TRUNCATED, f"header: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(TOO_LARGE, f"{_size(image)} pixels; at most {max_pixels:,} in all")
    if max(width, height) > MAX_SIDE:
        raise BadImage(TOO_LARGE, f"{_size(image)} pixels; each side has at most {MAX_SIDE:,}")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """Decode the pixels; see `decode`. Raises BadImage."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF or TIFF tags: the pixels are what counts
            image.load()
            if "exif" in image.info:
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 or 32 bits of grey: Pillow would clip, not scale
                image = image.point(lambda value: value * (1 / 256)).convert("L")
            if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
                layer = image.convert("RGBA")
                image = Image.new("RGBA", layer.size, "white")
                image.alpha_composite(layer)
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # on damaged bytes Pillow's plugins raise whatever comes
        raise BadImage(TRUNCATED, str(error)) from None


def _kind(image: Image.Image) -> str:
    # A JPEG with more pictures behind the first one, as phones write them, calls itself MPO.
    return FORMATS["JPEG" if image.format == "MPO" else image.format or ""]


def _size(image: Image.Image) -> str:
    return f"{image.size[0]} x {image.size[1]}"
