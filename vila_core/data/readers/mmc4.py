"""MMC4: web documents as JSON lines, images in a folder by `image_name`.

Layout as in VILA's released code unless the options say otherwise: sentences joined by one blank;
each image directly in front of its matched sentence, blanks around it removed; the first six images
of a document in page order. A document survives only with all the images that are used. Unlike
there, nothing is changed in place, and images at the same sentence keep page order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vila_core.data.readers.common import (
    BROKEN_RECORD,
    EMPTY_TEXT,
    Options,
    get,
    key_of,
)
from vila_core.data.readers.files import Broken, Filtered
from vila_core.data.readers.mmc4_images import (
    Mmc4Options,
    Placed,
    check_count,
    choose,
    removed,
    without_faces,
)
from vila_core.data.readers.shard_folders import ShardFolders
from vila_core.data.sample import Image, Part, Sample, Text, make_sample
from vila_core.images import BadImage, check

__all__ = ["Converter", "Mmc4Options"]


def columns(options: Options) -> Sequence[frozenset[str]]:
    """Return what a table needs."""
    return [frozenset({"text_list", "image_info"})]


class Converter:
    """Makes documents, or pairs. `images` defaults to the folder `images` beside the file.

    The downloader's folders of images per shard are found beside the file, or in `images`.

    What rules leave out of a document that stays is counted in `meta["left_out"]`, by rule; of the
    pairs of one document the first has the counts.
    """

    def __init__(self, path: Path, images: Path | None, options: Options) -> None:
        assert isinstance(options, Mmc4Options)
        self._folders, self._options = ShardFolders(path, images), options

    def __call__(self, key: str, record: Any) -> Sample | list[Sample]:
        """Return the document of a record, or its pairs. Raises Broken, BadImage, Filtered."""
        sentences = _sentences(record)
        self._folder = self._folders.of(key)
        if self._options.drop_url_duplicates and record.get("could_have_url_duplicate"):
            raise Filtered("drop_url_duplicates", repr(record.get("url"))[:300])
        used, files, left_out = self._images(record, len(sentences))
        if self._options.layout == "pairs":
            return self._pairs(key, record, sentences, used, files, left_out)
        check_count(key, len(used), left_out, self._options)
        used.sort(key=lambda one: one.sentence)  # stable: page order among equals
        if self._options.layout == "images-first":
            places = [0] * len(used)
        else:
            behind = int(self._options.place == "after")
            places = [one.sentence + behind for one in used]
        parts = _interleave(sentences, places)
        kind = "interleaved" if used else "text-only"
        images = [files[one.number] for one in used]
        return make_sample(key, kind, parts, images, _meta(record, used, left_out))

    def _images(
        self, record: Any, sentences: int
    ) -> tuple[list[Placed], dict[int, bytes], Counter[str]]:
        """Return the images to use, their files, and what was left out.

        The choice is that of a record which never had the images that turn out bad.
        """
        infos, options = get(record, "image_info", list), self._options
        files: dict[int, bytes] = {}
        dropped: Counter[str] = Counter()
        numbers = without_faces(infos, options, dropped)
        if options.need_all_images:
            for info in infos:
                self._folder.read(get(info, "image_name", str))
        if options.assignment != "published":  # a bad image must not take a sentence
            numbers = removed(numbers, self._bad(infos, numbers, files, dropped))
        while True:
            used, left_out = choose(record, numbers, sentences, options)
            bad = self._bad(infos, [one.number for one in used], files, dropped)
            if not bad:
                return used, files, dropped + left_out
            numbers = removed(numbers, bad)

    def _bad(
        self, infos: list[Any], numbers: Sequence[int], files: dict[int, bytes], why: Counter[str]
    ) -> list[int]:
        """Read images into `files`; return the numbers of those to leave out, counted in `why`."""
        bad: list[int] = []
        for number in numbers:
            if number in files:
                continue
            try:
                data = self._folder.read(get(infos[number], "image_name", str))
                if self._options.missing == "drop-image":
                    check(data)  # decoded here: later it would take the document with it
            except (Broken, BadImage) as error:
                if self._options.missing == "drop-document":
                    raise
                why[error.reason] += 1
                bad.append(number)
                continue
            if len(data) < self._options.min_bytes:
                why["min_bytes"] += 1
                bad.append(number)
            else:
                files[number] = data
        return bad

    def _pairs(
        self,
        key: str,
        record: Any,
        sentences: list[str],
        used: list[Placed],
        files: dict[int, bytes],
        left_out: Counter[str],
    ) -> list[Sample]:
        """Return one sample per image; its number on the page is in the key, whatever was used."""
        pairs = [one for one in used if sentences[one.sentence].strip()]
        left_out[EMPTY_TEXT] += len(used) - len(pairs)
        left_out = +left_out
        check_count(key, len(pairs), left_out, self._options)
        if not pairs:
            raise Filtered("pairs", "no image with a sentence")
        return [
            make_sample(
                key_of(key, one.number),
                "caption",
                [Image(0), Text(sentences[one.sentence].strip())],
                [files[one.number]],
                _meta(record, [one], Counter() if position else left_out),
            )
            for position, one in enumerate(pairs)
        ]


def _sentences(record: Any) -> list[str]:
    sentences = get(record, "text_list", list)
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise Broken(BROKEN_RECORD, "'text_list' holds something other than text")
    if not any(sentence.strip() for sentence in sentences):
        raise Broken(EMPTY_TEXT, "'text_list'")
    return sentences


def _meta(record: Any, used: Sequence[Placed], left_out: Counter[str]) -> dict[str, Any]:
    images = [
        {
            "image_name": one.info["image_name"],
            "raw_url": one.info.get("raw_url"),
            "matched_sim": one.similarity,
        }
        for one in used
    ]
    meta: dict[str, Any] = {"url": record.get("url"), "images": images}
    return {**meta, "left_out": dict(sorted(left_out.items()))} if left_out else meta


def _interleave(sentences: list[str], places: list[int]) -> list[Part]:
    """Return text and images in order.

    `places` (ascending) are the sentences that images stand before; their number means the end.
    """
    parts: list[Part] = []
    text, image = "", 0
    for number in range(len(sentences) + 1):
        while image < len(places) and places[image] == number:
            if text:
                parts.append(Text(text))
            text = ""
            parts.append(Image(image))
            image += 1
        if number < len(sentences):
            text = f"{text} {sentences[number].strip()}".strip()
    return [*parts, Text(text)] if text else parts
