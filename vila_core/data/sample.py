"""Samples: what every corpus is read into, with a key for life and a digest of the content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from vila_core.errors import UserError
from vila_core.jsonio import dumps

Kind = Literal["caption", "interleaved", "conversation", "text-only"]
Role = Literal["text", "user", "assistant", "system"]
SUPERVISED_ROLES = ("text", "assistant")

IMAGE_TAG = "<image>"
"""The place of an image in text, in files and in prompts. Inside a Sample it is an `Image` part."""
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)*/\d{6,}")


@dataclass(frozen=True)
class Text:
    """A run of text. Role "text" is pre-training text; the others are turns of a conversation."""

    text: str
    role: Role = "text"


@dataclass(frozen=True)
class Image:
    """The place of an image: `index` counts into `Sample.images`."""

    index: int
    role: Role = "text"


Part = Text | Image


@dataclass(frozen=True)
class Sample:
    """One document, pair or conversation, with its images as encoded files."""

    key: str  # "<corpus>/<shard>/<index>", for example "mmc4/00000/000017"; for life
    kind: Kind
    parts: tuple[Part, ...]
    images: tuple[bytes, ...]
    digest: str  # sha256 over parts and images
    meta: Mapping[str, Any] = field(default_factory=dict)  # source id, url, licence…


Group = Literal["broken", "rule", "limit", "duplicate", "contaminated"]
"""Why a record was set aside: a defect, or a rule, limit or finding that the user asked for."""


@dataclass(frozen=True)
class SetAside:
    """A record that became no sample. `where` is its file and line, or its sample key."""

    source: str
    where: str
    reason: str
    detail: str
    group: Group = "broken"
    kind: Kind | None = None  # of a record that was a sample already


def make_sample(
    key: str,
    kind: Kind,
    parts: Iterable[Part],
    images: Sequence[bytes],
    meta: Mapping[str, Any] | None = None,
) -> Sample:
    """Build a sample and its digest.

    Raises ValueError for a malformed key, and unless each image has exactly one place.
    """
    parts = tuple(parts)
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a sample key: <corpus>/<shard>/<index of 6 digits>")
    used = sorted(part.index for part in parts if isinstance(part, Image))
    if used != list(range(len(images))):
        raise ValueError(f"{key}: {len(images)} images, but parts refer to {used}")
    return Sample(key, kind, parts, tuple(images), digest(parts, images), meta or {})


def read_keys(path: Path) -> frozenset[str]:
    """Return the sample keys in a file, one per line; blank lines and `#` comments are skipped.

    Raises UserError for a file that can't be read and for a line that is no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    keys = set()
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if key and not key.startswith("#"):
            if not is_key(key):
                raise UserError(
                    f"{path}:{number}: {key!r} is not a sample key; one looks like "
                    "mmc4/00017/000042."
                )
            keys.add(key)
    return frozenset(keys)


def is_key(text: str) -> bool:
    """Return whether a text has the form of a sample key."""
    return _KEY.fullmatch(text) is not None


def digest(parts: Iterable[Part], images: Iterable[bytes]) -> str:
    """Return the sha256 (hex) of a sample's content: its parts and the bytes of its images."""
    whole = hashlib.sha256(dumps([part_to_json(part) for part in parts]).encode())
    for image in images:
        whole.update(hashlib.sha256(image).digest())
    return whole.hexdigest()


def part_to_json(part: Part) -> dict[str, Any]:
    """Return a part as JSON: `{"text": …}` or `{"image": 0}`, with a role unless it is "text"."""
    value: dict[str, Any] = {"text": part.text} if isinstance(part, Text) else {"image": part.index}
    return value if part.role == "text" else {**value, "role": part.role}


def part_from_json(value: Mapping[str, Any]) -> Part:
    """Return the part that `part_to_json` wrote."""
    role = cast(Role, value.get("role", "text"))
    return Image(value["image"], role) if "image" in value else Text(value["text"], role)


def split_tags(text: str, role: Role, next_image: int) -> tuple[list[Part], int]:
    """Turn text with `<image>` tags into parts, tags in place; images count up from `next_image`.

    Returns the parts and the number of the image after the last one.
    """
    parts: list[Part] = []
    for number, piece in enumerate(text.split(IMAGE_TAG)):
        if number:
            parts.append(Image(next_image, role))
            next_image += 1
        if piece:
            parts.append(Text(piece, role))
    return parts, next_image
