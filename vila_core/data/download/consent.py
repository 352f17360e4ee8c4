"""What owners say in the headers of an answer: `X-Robots-Tag`, `tdm-reservation`."""

from __future__ import annotations

from collections.abc import Iterable

from vila_core.data.download.settings import PRODUCT

NAMES = frozenset({PRODUCT, "img2dataset", "*"})
"""Whom we take ourselves to be. Who turns img2dataset away means any collection of images."""
FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def opted_out(robots: Iterable[str], tdm: Iterable[str]) -> str:
    """Return what forbids the use of an image for training, "" if nothing does.

    `robots` and `tdm` are the values of the two headers, each as often as it was sent. A directive
    behind `name:` is for that crawler alone, and so are those that follow it in the same header.
    """
    for value in robots:
        for_us = True
        for part in value.split(","):
            directive = part.strip().lower()
            name, colon, rest = directive.partition(":")
            if colon and name.strip() not in _WITH_VALUE:
                for_us, directive = name.strip() in NAMES, rest.strip()
            if for_us and directive in FORBIDDING:
                return f"X-Robots-Tag: {directive}"
    if any(value.strip() == "1" for value in tdm):
        return "tdm-reservation: 1"
    return ""
