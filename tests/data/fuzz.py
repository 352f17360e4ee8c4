"""Mutations of JSON, bytes and images, and corpora made of them. Everything follows from a seed."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from typing import Any

from PIL import Image as PilImage

from tests.data.make import picture, png_header

WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**31, 2**63, 10**400, -0.0, 1.5, 1e308),
    *(
        float("nan"),
        float("inf"),
        "NaN",
        "0",
        "-1",
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udcff\ud83d",
    ),
    *(
        "<image>",
        "<image><image> x",
        "</s>",
        "\x1b[2J",
        "..",
        "../x.png",
        "/etc/passwd",
        "a/../../b",
    ),
    *("~", "C:\\x", "x" * 5000, "é" * 300, "\U0001f600", "sa_1", "human", "gpt", "system"),
    *([], {}, [[]], [None], {"": None}, [1, "a", {}], {"bytes": None}, {"bytes": "x"}, ["<image>"]),
    *("data:image/png;base64,", "====", "AAAA", b"raw"),
)
"""What fields of the web hold when nobody looked."""


@cache
def images() -> tuple[bytes, ...]:
    """Small images of every accepted kind, and of some that are not."""
    exif = PilImage.Exif()
    exif[0x0112] = 6
    red = PilImage.new("RGB", (12, 10), (250, 10, 10))
    frames = [PilImage.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
    made = [
        picture(),
        picture((1, 2, 3, 4), mode="RGBA"),
        picture((5, 99), mode="LA"),
        picture(200, mode="L"),
        picture(40_000, mode="I;16"),
        picture(1, mode="1"),
        picture(3, mode="P"),
        *(picture(form="JPEG", quality=quality) for quality in (5, 95)),
        picture(form="JPEG", progressive=True),
        picture(form="JPEG", exif=exif),
        picture((9, 8, 7, 6), form="JPEG", mode="CMYK"),
        picture(77, form="JPEG", mode="L"),
        picture(form="WEBP"),
        picture(form="WEBP", lossless=True),
        picture((1, 2, 3, 4), form="WEBP", mode="RGBA"),
        picture(form="BMP"),
        picture(form="GIF"),
        *(picture(form="TIFF", compression=name) for name in ("raw", "tiff_lzw", "jpeg")),
        picture((9, 8, 7, 6), form="TIFF", mode="CMYK"),
        picture(size=(3, 90)),
        picture(form="PPM"),
        png_header(30_000, 30_000),
        b"",
        b"<html>404</html>",
    ]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:])
        made.append(file.getvalue())
    palette = red.quantize(4)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=bytes([255, 0, 3, 9]))
    return (*made, file.getvalue())


class Fuzz:
    """Draws mutations."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def damage(self, data: bytes, times: int = 3) -> bytes:
        """Return bytes with a few bits flipped, pieces lost, doubled or replaced, or cut off."""
        draw, result = self.random, bytearray(data)
        for _ in range(draw.randint(1, times)):
            if not result:
                return draw.randbytes(draw.randint(0, 9))
            start = draw.randrange(len(result))
            stop = min(start + draw.choice((1, 2, 4, 30)), len(result))
            way = draw.randrange(6)
            if way == 0:
                result[start] ^= 1 << draw.randrange(8)
            elif way == 1:
                del result[start:stop]
            elif way == 2:
                result[start:start] = result[start:stop]
            elif way == 3:
                result[start:stop] = draw.randbytes(stop - start)
            elif way == 4:
                result[start:stop] = draw.choice((b"\0", b"\xff", b"\x7f")) * (stop - start)
            else:
                del result[start + 1 :]
        return bytes(result)

    def image(self) -> bytes:
        data = self.random.choice(images())
        return self.damage(data) if self.chance(0.4) else data

    def text(self) -> str:
        words = ("red", "cat", "on", "the", "mat.", "ä", "<image>", "\n", "猫")
        return " ".join(self.random.choices(words, k=self.random.randint(1, 6)))

    def weird(self) -> Any:
        return self.random.choice(WEIRD)

    def json(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of a JSON value with one place of it changed."""
        draw = self.random
        if isinstance(value, dict) and value and not (depth and self.chance(0.1)):
            name = draw.choice(sorted(value))
            way = draw.randrange(5)
            if way == 0:
                return {other: one for other, one in value.items() if other != name}
            if way == 1:
                return {**value, str(self.weird()): self.weird()}
            return {**value, name: self.json(value[name], depth + 1)}
        if isinstance(value, list) and value and not self.chance(0.1):
            place = draw.randrange(len(value))
            way = draw.randrange(5)
            if way == 0:
                return value[:place] + value[place + 1 :]
            if way == 1:
                return [*value[:place], value[place], *value[place:]]
            if way == 2:
                return draw.sample(value, len(value))
            return [*value[:place], self.json(value[place], depth + 1), *value[place + 1 :]]
        if isinstance(value, int) and not isinstance(value, bool) and self.chance(0.5):
            return value + draw.choice((-1, 1, 2, 10**9))
        if isinstance(value, str) and value and self.chance(0.3):
            cut = draw.randrange(len(value))
            return value[:cut] + draw.choice(("<image>", "\0", "\ud800", "")) + value[cut:]
        return self.weird()

    def line(self, record: Any) -> bytes:
        """Return a record as a line of JSON, mostly mutated: in its structure or in its bytes."""
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 3))):
            record = self.json(record)
        data = as_json(record)
        if self.chance(0.1):
            data = self.damage(data)
        elif self.chance(0.01):
            data = b"[" * self.random.choice((3, 50_000)) + data
        return data


def as_json(value: Any) -> bytes:
    """Return a value as JSON, NaN and halves of surrogate pairs included."""
    return json.dumps(value, default=repr).encode()
