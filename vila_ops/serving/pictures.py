"""Images of a request: out of data URLs (or fetched, where that is allowed), and checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vila_core.images import BadImage, check_header
from vila_ops.serving.limits import Limits
from vila_ops.serving.problem import ApiError, wrong

if TYPE_CHECKING:
    import torch

    from vila_core.model import VilaProcessor
    from vila_ops.serving.features import Picture

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF"}
"""What clients of such endpoints send; rarer formats have decoders that nobody needs here."""
_DATA = re.compile(r"data:image/[A-Za-z0-9.+-]{1,64};base64,", re.IGNORECASE)
_SHOWN = 60


class Fetch(Protocol):
    """Fetches an image by its address. Raises ApiError, naming `where`."""

    def __call__(self, url: str, where: str) -> bytes:
        """Return the file's content."""
        ...


def read(
    urls: Sequence[str], processor: VilaProcessor, limits: Limits, fetch: Fetch
) -> list[Picture]:
    """Return the images as the model takes them. Raises ApiError, naming the image.

    An image that comes twice is decoded once.
    """
    if len(urls) > limits.images:
        raise wrong("messages", f"{len(urls)} images, of which {limits.images} are allowed")
    from vila_ops.serving.features import Picture

    known: dict[str, Picture] = {}
    found: list[Picture] = []
    for number, url in enumerate(urls):
        where = f"image {number + 1} of {len(urls)}"
        data = _content(url, where, limits, fetch)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in known:
            known[sha256] = Picture(sha256, _pixels(data, where, processor, limits))
        found.append(known[sha256])
    return found


def _content(url: str, where: str, limits: Limits, fetch: Fetch) -> bytes:
    match = _DATA.match(url)
    if match is None:
        if re.match(r"https?://", url, re.IGNORECASE):
            return fetch(url, where)
        shown = ascii(url[:_SHOWN])
        raise bad(where, f"a data URL (data:image/png;base64,…) is needed, found {shown}")
    text = url[match.end() :]
    if len(text) * 3 // 4 > limits.image_bytes + 2:
        raise bad(where, f"more than {limits.image_bytes:,} bytes", status=413)
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise bad(where, "its base64 is damaged") from None
    if not data:
        raise bad(where, "holds no bytes")
    return data


def _pixels(data: bytes, where: str, processor: VilaProcessor, limits: Limits) -> torch.Tensor:
    try:
        kind = check_header(data, max_pixels=limits.pixels, min_side=1)
        if kind not in FORMATS:
            raise bad(where, f"{kind} is not taken; send PNG, JPEG, WebP or GIF")
        if kind != "jpg" and _is_animated(data, FORMATS[kind]):
            raise bad(where, "it is animated; send one of its frames")
        return processor.transform_bytes(data)
    except BadImage as error:
        raise bad(where, str(error)) from None


def _is_animated(data: bytes, kind: str) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception as error:  # on damaged bytes Pillow's plugins raise whatever comes
        raise BadImage("truncated", str(error)) from None


def bad(where: str, message: str, *, status: int = 400) -> ApiError:
    """Return the error for an image that can't be shown."""
    code = "image_too_large" if status == 413 else "invalid_image"
    return ApiError(status, f"{where}: {message}", param="messages", code=code)
