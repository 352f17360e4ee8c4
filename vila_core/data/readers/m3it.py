"""M3IT: visual instructions with their images inside, as base64 (JSON lines or parquet).

As in VILA's released code: the prompt is `instruction` and `inputs`, joined, without the `<image>`
tags that it may hold, and with every image and a line break in front; the answer is `outputs`; the
prompts of visual-dialog, a whole dialogue each, become turns. VILA's conversion (`question`,
`answer`, `image`) is read as well.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from vila_core.data.readers.common import EMPTY_TEXT, Options, checked, get, get_text
from vila_core.data.readers.records import (
    BROKEN_RECORD,
    MAX_FILE_BYTES,
    TOO_LARGE_FILE,
    Broken,
    Filtered,
)
from vila_core.data.sample import IMAGE_TAG, Image, Part, Sample, Text, make_sample

BROKEN_BASE64 = "broken base64"
IMAGE_FIELDS = ("image_base64_str", "image_str", "image", "images")
_DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")
_BLANKS = re.compile(r"\s+")
_VIDEO_FRAMES = 8
_DIALOG = "Image Descriptions"
"""By this VILA's code knows a prompt of visual-dialog."""
_META = ("id", "meta_data", "task", "dataset", "url")


class M3itOptions(Options):
    """How instructions are read."""

    separator: str = Field(
        default="", description="between instruction and inputs; VILA's code has none"
    )
    max_images: int = Field(
        default=8, ge=1, description="records with more are left out; 8 are a video's frames"
    )
    halve_videos: bool = Field(
        default=False, description="take every second of 8 images; a switch of VILA's code"
    )
    split_dialogs: bool = Field(
        default=True, description="make turns of a visual-dialog prompt, whose last one is asked"
    )


def columns(options: Options) -> Sequence[frozenset[str]]:
    """Return what a table needs: prompt and answer, M3IT's way or VILA's."""
    return [frozenset({"instruction", "outputs"}), frozenset({"question", "answer"})]


class Converter:
    """Makes conversations. All images are in the records."""

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, M3itOptions)
        self._options = options

    def __call__(self, key: str, record: Any) -> Sample:
        """Return the conversation of a record."""
        options = self._options
        prompt, answer = _prompt(record, options.separator), _answer(record)
        values = _values(record)
        if len(values) > options.max_images:
            raise Filtered("max_images", f"{len(values)} images")
        if options.halve_videos and len(values) == _VIDEO_FRAMES:
            values = values[::2]
        images = [_image(value, f"image {number}") for number, value in enumerate(values, 1)]
        turns = [(prompt, answer)]
        if options.split_dialogs and _DIALOG in prompt:
            turns = _dialog(prompt, answer)
        parts: list[Part] = []
        for number in range(len(images)):
            parts += [Text("\n", "user")] if number else []
            parts.append(Image(number, "user"))
        for number, (question, reply) in enumerate(turns):
            before = "\n" if images and not number else ""
            parts += [Text(f"{before}{question}", "user"), Text(reply, "assistant")]
        meta = {name: record[name] for name in _META if record.get(name) is not None}
        return make_sample(key, "conversation" if images else "text-only", parts, images, meta)


def _prompt(record: Any, separator: str) -> str:
    if isinstance(record, dict) and "instruction" not in record and "question" in record:
        pieces = [get(record, "question", str)]
    else:
        pieces = [get(record, "instruction", str)]
        if record.get("inputs") is not None:
            pieces.append(get(record, "inputs", str))
    text = separator.join(piece for piece in pieces if piece)
    for tag in (f"{IMAGE_TAG}\n", f"\n{IMAGE_TAG}", IMAGE_TAG):
        text = text.replace(tag, "")
    if not text.strip():
        raise Broken(EMPTY_TEXT, "'instruction' and 'inputs'")
    return text.strip()


def _dialog(prompt: str, answer: str) -> list[tuple[str, str]]:
    """Return questions and answers of a dialogue, the last one's `answer`; what leads in goes."""
    *turns, last = [turn.split("\nAnswer: ") for turn in prompt.split("\nQuestion: ")[1:]] or [[]]
    pairs = [*turns, [*last, answer]]
    if any(len(pair) != 2 or not all(text.strip() for text in pair) for pair in pairs):
        raise Broken(BROKEN_RECORD, "a visual dialogue whose questions and answers don't alternate")
    return [(question.strip(), reply.strip()) for question, reply in pairs]


def _answer(record: dict[str, Any]) -> str:
    return get_text(record, "outputs" if "outputs" in record else "answer")


def _values(record: dict[str, Any]) -> list[Any]:
    """Return the encoded images of a record, none for text alone."""
    name = next((name for name in IMAGE_FIELDS if record.get(name) is not None), None)
    value = record[name] if name else []
    values = value if isinstance(value, list) else [value]
    return [one for one in values if one not in ("", None)]


def _image(value: Any, name: str) -> bytes:
    if isinstance(value, dict):  # the hub's struct of bytes and path
        value = value.get("bytes")
    if isinstance(value, bytes):
        return checked(value, name)
    if not isinstance(value, str):
        raise Broken(BROKEN_RECORD, f"{name} is {type(value).__name__}, expected base64")
    start = _DATA_URL.match(value)
    text = _BLANKS.sub("", value[start.end() if start else 0 :])
    if len(text) // 4 * 3 > MAX_FILE_BYTES:
        raise Broken(TOO_LARGE_FILE, f"{name}: {len(text):,} characters")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Broken(BROKEN_BASE64, f"{name}: {error}") from None
    return checked(data, name)
