"""Which images of an MMC4 document are used, and which sentence each belongs to."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from vila_core.data.readers.common import BROKEN_RECORD, Options, get
from vila_core.data.readers.files import Broken, Filtered

if TYPE_CHECKING:
    import numpy as np


class Mmc4Options(Options):
    """How documents are read. Every rule is off unless set, but for the six images of VILA."""

    max_images: int | None = Field(default=6, ge=1, description="images used per document")
    min_similarity: float | None = Field(
        default=None, description="images less similar to their sentence are left out"
    )
    choose: Literal["first", "best"] = Field(
        default="first", description="of too many images: the first on the page, or the most alike"
    )
    min_images: int = Field(default=0, ge=0, description="documents with fewer are set aside")
    single_image_share: float = Field(
        default=1.0, ge=0, le=1, description="share of one-image documents that stay, by sample key"
    )
    min_bytes: int = Field(default=0, ge=0, description="smaller image files are left out")
    faces: Literal["keep", "drop-image", "drop-document"] = Field(
        default="keep", description="what `face_detections` do"
    )
    drop_url_duplicates: bool = Field(
        default=False, description="set aside documents with could_have_url_duplicate"
    )
    missing: Literal["drop-document", "drop-image"] = Field(
        default="drop-document", description="what a missing or bad image drops"
    )
    need_all_images: bool = Field(
        default=False, description="images that aren't used must be there too"
    )
    assignment: Literal["published", "one-to-one", "one-to-one-or-best"] = Field(
        default="published",
        description="sentences from the file, or anew from similarity_matrix: each sentence takes "
        "one image; further images are left out, or go to their most similar sentence",
    )
    layout: Literal["interleaved", "pairs", "images-first"] = Field(
        default="interleaved",
        description="images among the sentences; one sample per image with its sentence; or all "
        "images before the text",
    )
    place: Literal["before", "after"] = Field(
        default="before", description="where an interleaved image stands, seen from its sentence"
    )

    @model_validator(mode="after")
    def _fits(self) -> Mmc4Options:
        if self.place == "after" and self.layout != "interleaved":
            raise ValueError("place: after goes with layout: interleaved")
        if self.max_images is not None and self.min_images > self.max_images:
            raise ValueError(f"min_images {self.min_images} is over max_images {self.max_images}")
        if self.need_all_images and self.missing == "drop-image":
            raise ValueError("need_all_images goes with missing: drop-document")
        return self


@dataclass(frozen=True)
class Placed:
    """An image: its number in `image_info`, its entry there, and the sentence it belongs to."""

    number: int
    info: Any
    sentence: int
    similarity: float | None


def without_faces(infos: Sequence[Any], options: Mmc4Options, left_out: Counter[str]) -> list[int]:
    """Return the numbers of the images that `faces` lets pass. Raises Filtered, Broken."""
    if options.faces == "keep":
        return list(range(len(infos)))
    passed = [
        number
        for number, info in enumerate(infos)
        if not (isinstance(info, dict) and info.get("face_detections"))
    ]
    faces = len(infos) - len(passed)
    if faces and options.faces == "drop-document":
        raise Filtered("faces", f"in {faces} of {len(infos)} images")
    if faces:
        left_out["faces"] += faces
    return passed


def choose(
    record: Any, numbers: Sequence[int], sentences: int, options: Mmc4Options
) -> tuple[list[Placed], Counter[str]]:
    """Return the images to use, in page order, and how many each rule left out.

    `numbers` are the candidates among the record's images. Raises Broken for a record without what
    the rules need.
    """
    left_out: Counter[str] = Counter()
    placed = _assigned(record, numbers, sentences, options)
    if len(placed) < len(numbers):
        left_out["assignment"] = len(numbers) - len(placed)
    if options.min_similarity is not None:
        alike = [one for one in placed if _similarity(one) >= options.min_similarity]
        left_out["min_similarity"] = len(placed) - len(alike)
        placed = alike
    if options.max_images is not None and len(placed) > options.max_images:
        left_out["max_images"] = len(placed) - options.max_images
        if options.choose == "best":  # stable: the first on the page among equals
            placed = sorted(placed, key=_similarity, reverse=True)
        placed = sorted(placed[: options.max_images], key=lambda one: one.number)
    for one in placed:
        get(one.info, "image_name", str)
        if options.assignment == "published":
            get(one.info, "matched_text_index", int)
        if not 0 <= one.sentence < sentences:
            raise Broken(BROKEN_RECORD, f"matched_text_index {one.sentence}, {sentences} sentences")
    return placed, +left_out


def check_count(key: str, images: int, left_out: Counter[str], options: Mmc4Options) -> None:
    """Raise Filtered for a document that is left with too few images."""
    if images < options.min_images:
        why = "".join(f", {count} by {rule}" for rule, count in sorted(left_out.items()))
        lost = f" ({left_out.total()} left out{why})" if left_out else ""
        raise Filtered("min_images", f"{images} images{lost}, at least {options.min_images}")
    if images == 1 and options.single_image_share < 1:
        draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        if draw >= options.single_image_share:
            raise Filtered("single_image_share", f"one image, {options.single_image_share} stay")


def _assigned(
    record: Any, numbers: Sequence[int], sentences: int, options: Mmc4Options
) -> list[Placed]:
    infos = [record["image_info"][number] for number in numbers]
    if options.assignment == "published":
        return [
            Placed(number, info, _field(info, "matched_text_index"), _field(info, "matched_sim"))
            for number, info in zip(numbers, infos, strict=True)
        ]
    from vila_core.data.assignment import one_to_one

    score_RC = _matrix(record, len(record["image_info"]), sentences)[list(numbers)]
    columns = one_to_one(score_RC)
    if options.assignment == "one-to-one-or-best":
        columns = [
            int(score_RC[row].argmax()) if column < 0 else column
            for row, column in enumerate(columns)
        ]
    return [
        Placed(number, info, column, float(score_RC[row, column]))
        for row, (number, info, column) in enumerate(zip(numbers, infos, columns, strict=True))
        if column >= 0
    ]


def _matrix(record: Any, images: int, sentences: int) -> np.ndarray:
    """Return `similarity_matrix` (images, sentences), float64. Raises Broken."""
    import numpy as np

    rows = get(record, "similarity_matrix", list)
    if len(rows) != images or not all(_is_row(row, sentences) for row in rows):
        raise Broken(BROKEN_RECORD, f"'similarity_matrix' is not {images} x {sentences} numbers")
    try:
        matrix_RC = np.array(rows, dtype=np.float64).reshape(images, sentences)
    except OverflowError:  # JSON knows integers of any length
        matrix_RC = np.full((images, sentences), np.nan)
    if not np.isfinite(matrix_RC).all():
        raise Broken(BROKEN_RECORD, "'similarity_matrix' holds something other than numbers")
    return matrix_RC


def _is_row(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length and all(_is_number(one) for one in row)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(info: Any, name: str) -> Any:
    """Return a finite number, None for anything else: only what is used has to be sound."""
    value = info.get(name) if isinstance(info, dict) else None
    if not _is_number(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _similarity(one: Placed) -> float:
    if one.similarity is None:
        raise Broken(BROKEN_RECORD, "'matched_sim' is missing, a rule needs it")
    return one.similarity


def removed(numbers: Iterable[int], bad: Iterable[int]) -> list[int]:
    """Return `numbers` without `bad`, in their order."""
    out = set(bad)
    return [number for number in numbers if number not in out]
