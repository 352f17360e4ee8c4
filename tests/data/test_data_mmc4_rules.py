"""Rules of the MMC4 reader, on documents in the published schema whose outcome is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.data.make import noise, picture, write_images, write_lines
from vila_core.data.readers import READERS
from vila_core.data.readers.common import converted
from vila_core.data.readers.files import Record
from vila_core.data.readers.mmc4 import Converter, Mmc4Options
from vila_core.data.rules import Rules
from vila_core.data.sample import Image, Sample, SetAside, Text
from vila_core.images import BadImage

SMALL = [picture((n, 0, 0)) for n in range(8)]
Read = Callable[..., list[Sample | SetAside]]


def document(sentences: int, images: list[tuple[int, float]], **more: Any) -> dict[str, Any]:
    """Sentences "S0", "S1", …; an image `n.png` per (sentence, similarity)."""
    matrix = [[sim if place == n else 0.1 for n in range(sentences)] for place, sim in images]
    return {
        "text_list": [f"S{n}" for n in range(sentences)],
        "url": "https://page.invalid",
        "could_have_url_duplicate": 0,
        "similarity_matrix": matrix,
        "image_info": [
            {
                "image_name": f"{n}.png",
                "raw_url": f"https://page.invalid/{n}.png",
                "matched_text_index": place,
                "matched_sim": sim,
                "face_detections": None,
            }
            for n, (place, sim) in enumerate(images)
        ],
        **more,
    }


@pytest.fixture
def read(tmp_path: Path) -> Read:
    write_images(tmp_path / "images", {f"{n}.png": data for n, data in enumerate(SMALL)})

    def _read(*records: dict[str, Any], **options: Any) -> list[Sample | SetAside]:
        path = write_lines(tmp_path / "docs_shard_7_v3.jsonl", records)
        return list(
            READERS["mmc4"].read(path, corpus="mmc4", options=Mmc4Options.model_validate(options))
        )

    return _read


def only(rows: list[Sample | SetAside]) -> Sample:
    (row,) = rows
    assert isinstance(row, Sample), row
    return row


def filtered(rows: list[Sample | SetAside]) -> SetAside:
    (row,) = rows
    assert isinstance(row, SetAside), row
    return row


def shown(sample: Sample) -> str:
    """The sample as in the paper's notation: images by file, text as it is."""
    return "".join(
        f"<{SMALL.index(sample.images[part.index])}>" if isinstance(part, Image) else part.text
        for part in sample.parts
    )


THREE = [(1, 0.2), (0, 0.4), (1, 0.3)]


@pytest.mark.parametrize(
    ("options", "expected", "left_out"),
    [
        ({}, "<1>S0<0><2>S1 S2", {}),
        ({"place": "after"}, "S0<1>S1<0><2>S2", {}),
        ({"layout": "images-first"}, "<1><0><2>S0 S1 S2", {}),
        ({"max_images": 2}, "<1>S0<0>S1 S2", {"max_images": 1}),
        ({"max_images": 2, "choose": "best"}, "<1>S0<2>S1 S2", {"max_images": 1}),
        ({"max_images": 1, "choose": "best"}, "<1>S0 S1 S2", {"max_images": 2}),
        ({"min_similarity": 0.25}, "<1>S0<2>S1 S2", {"min_similarity": 1}),
        ({"min_similarity": 0.3}, "<1>S0<2>S1 S2", {"min_similarity": 1}),
        ({"min_similarity": 0.9}, "S0 S1 S2", {"min_similarity": 3}),
    ],
)
def test_which_images_and_where(
    read: Read, options: dict[str, Any], expected: str, left_out: dict[str, int]
) -> None:
    sample = only(read(document(3, THREE), **options))
    assert shown(sample) == expected
    assert sample.meta.get("left_out", {}) == left_out
    assert sample.kind == ("interleaved" if sample.images else "text-only")
    names = [image["image_name"] for image in sample.meta["images"]]
    assert [(SMALL[int(name[0])]) for name in names] == list(sample.images)


def test_an_image_after_the_last_sentence_stands_at_the_end(read: Read) -> None:
    assert shown(only(read(document(2, [(1, 0.3)]), place="after"))) == "S0 S1<0>"


def test_pairs_are_one_sample_per_image_with_its_sentence(read: Read) -> None:
    """The paper's example: text1 image1 text2 text3 image2 text4 gives two pairs."""
    rows = read(document(4, [(1, 0.3), (3, 0.3)]), layout="pairs")
    assert [(row.key, shown(row), row.kind) for row in rows if isinstance(row, Sample)] == [
        ("mmc4/00007.0/000000", "<0>S1", "caption"),
        ("mmc4/00007.1/000000", "<1>S3", "caption"),
    ]


def test_a_pair_keeps_its_key_whatever_else_is_left_out(read: Read) -> None:
    (row,) = read(document(3, THREE), layout="pairs", max_images=1, choose="best")
    assert isinstance(row, Sample)
    assert (row.key, shown(row)) == ("mmc4/00007.1/000000", "<1>S0")
    assert row.meta["left_out"] == {"max_images": 2}
    assert row.meta["images"] == [
        {
            "image_name": "1.png",
            "raw_url": "https://page.invalid/1.png",
            "matched_sim": 0.4,
        }
    ]


def test_a_rule_that_rejects_one_pair_leaves_the_others(tmp_path: Path) -> None:
    """A defect, however, is the whole document's, as when an image is missing."""
    small, large = picture(size=(16, 16)), picture(size=(40, 40))
    write_images(tmp_path / "images", {"0.png": large, "1.png": small, "2.png": large})
    record = Record(42, "docs.jsonl:43", document(3, THREE))
    convert = Converter(tmp_path, tmp_path / "images", Mmc4Options(layout="pairs"))

    def rules(sample: Sample) -> Sample:
        Rules(min_side=30).check(sample)
        return sample

    rows = converted("mmc4", "00007", record, convert, rules)
    assert [row.key if isinstance(row, Sample) else (row.where, row.reason) for row in rows] == [
        "mmc4/00007.0/000042",
        ("mmc4/00007.1/000042", "min_side"),
        "mmc4/00007.2/000042",
    ]
    whole = Converter(tmp_path, tmp_path / "images", Mmc4Options())
    (row,) = converted("mmc4", "00007", record, whole, rules)
    assert isinstance(row, SetAside)
    assert (row.where, row.reason, row.group) == ("docs.jsonl:43", "min_side", "rule")

    def broken(sample: Sample) -> Sample:
        raise BadImage("truncated", sample.key)

    (row,) = converted("mmc4", "00007", record, convert, broken)
    assert isinstance(row, SetAside)
    assert (row.where, row.reason, row.group) == ("docs.jsonl:43", "truncated", "broken")


def test_pairs_without_text_or_images_are_counted(read: Read) -> None:
    blank = document(2, [(0, 0.3), (1, 0.3)], text_list=[" ", "S1"])
    (row,) = read(blank, layout="pairs")
    assert isinstance(row, Sample)
    assert row.meta["left_out"] == {"empty text": 1}
    assert filtered(read(document(1, []), layout="pairs")).reason == "pairs"


@pytest.mark.parametrize(
    ("record", "options", "reason"),
    [
        (document(1, [], could_have_url_duplicate=1), {"drop_url_duplicates": True}, 0),
        (document(2, [(0, 0.3)]), {"min_images": 2}, 0),
        (document(2, [(0, 0.3), (1, 0.1)]), {"min_images": 2, "min_similarity": 0.2}, 0),
        (document(2, [(0, 0.3)]), {"single_image_share": 0.0}, 0),
    ],
)
def test_rules_that_set_documents_aside(
    read: Read, record: dict[str, Any], options: dict[str, Any], reason: int
) -> None:
    assert isinstance(only(read(record)), Sample)  # off by default
    row = filtered(read(record, **options))
    assert (row.group, row.reason) == ("rule", list(options)[reason])
    assert row.where == "docs_shard_7_v3.jsonl:1"


def test_why_too_few_images_are_left_is_said(read: Read) -> None:
    row = filtered(read(document(3, THREE), min_images=3, min_similarity=0.25))
    assert row.detail == "2 images (1 left out, 1 by min_similarity), at least 3"


def test_a_share_of_the_documents_with_one_image_stays_by_key(read: Read) -> None:
    records = [document(1, [(0, 0.3)]) for _ in range(400)]
    rows = read(*records, single_image_share=0.5)
    kept = {row.key for row in rows if isinstance(row, Sample)}
    assert 160 < len(kept) < 240
    assert rows == read(*records, single_image_share=0.5)
    more = read(*records, single_image_share=0.7)
    assert kept < {row.key for row in more if isinstance(row, Sample)}
    two = document(1, [(0, 0.3), (0, 0.3)])
    assert len(only(read(two, single_image_share=0.0)).images) == 2


@pytest.mark.parametrize(("faces", "images"), [("keep", 3), ("drop-image", 2)])
def test_faces(read: Read, faces: str, images: int) -> None:
    record = document(3, THREE)
    record["image_info"][1]["face_detections"] = [[0.1, 0.1, 0.4, 0.4]]
    record["image_info"][2]["face_detections"] = []
    assert len(only(read(record, faces=faces)).images) == images
    row = filtered(read(record, faces="drop-document"))
    assert (row.reason, row.detail) == ("faces", "in 1 of 3 images")


def test_small_files_are_left_out_and_the_next_takes_the_place(read: Read, tmp_path: Path) -> None:
    large = noise(size=120, form="PNG")
    assert len(SMALL[0]) < 5000 < len(large)
    write_images(tmp_path / "images", {"1.png": large, "2.png": large})
    sample = only(read(document(3, THREE), min_bytes=5000, max_images=1))
    assert sample.images == (large,)
    assert sample.meta["left_out"] == {"max_images": 1, "min_bytes": 1}
    assert only(read(document(3, THREE), min_bytes=len(SMALL[0]))).images[1] == SMALL[0]


@pytest.mark.parametrize("cut", [0, 40])
def test_a_missing_or_broken_image_drops_the_document_or_itself(
    read: Read, tmp_path: Path, cut: int
) -> None:
    place = tmp_path / "images" / "1.png"
    data = noise(size=64, form="PNG")
    place.write_bytes(data[: len(data) - cut - 200]) if cut else place.unlink()
    record = document(3, THREE)
    row = filtered(read(record))
    assert (row.group, row.reason) == ("broken", "truncated" if cut else "missing image")
    sample = only(read(record, missing="drop-image"))
    assert shown(sample) == "S0<0><2>S1 S2"
    assert sample.meta["left_out"] == {row.reason: 1}
    record["image_info"][1]["image_name"] = "../1.png"
    assert shown(only(read(record, missing="drop-image"))) == "S0<0><2>S1 S2"


def test_images_that_are_not_used_may_be_missing_unless_all_are_needed(
    read: Read, tmp_path: Path
) -> None:
    (tmp_path / "images" / "2.png").unlink()
    record = document(3, THREE)
    assert shown(only(read(record, max_images=2))) == "<1>S0<0>S1 S2"
    row = filtered(read(record, max_images=2, need_all_images=True))
    assert (row.reason, row.detail) == ("missing image", "2.png")


MATRIX = [
    # Sentence 1 is the most similar one for all three images.
    [0.10, 0.30, 0.20],
    [0.25, 0.40, 0.05],
    [0.15, 0.35, 0.00],
    [0.02, 0.31, 0.01],
]


def assigned(images: int) -> dict[str, Any]:
    return {
        **document(3, [(1, MATRIX[n][1]) for n in range(images)]),
        "similarity_matrix": MATRIX[:images],
    }


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        # 0.20 + 0.25 + 0.35 = 0.80 is the greatest sum of three that share no sentence.
        (3, {"assignment": "one-to-one"}, "<1>S0<2>S1<0>S2"),
        (3, {"assignment": "one-to-one", "min_similarity": 0.24}, "<1>S0<2>S1 S2"),
        (4, {"assignment": "one-to-one"}, "<1>S0<2>S1<0>S2"),
        (4, {"assignment": "one-to-one-or-best"}, "<1>S0<2><3>S1<0>S2"),
        (3, {}, "S0<0><1><2>S1 S2"),
    ],
)
def test_sentences_assigned_anew_from_the_matrix(
    read: Read, images: int, options: dict[str, Any], expected: str
) -> None:
    sample = only(read(assigned(images), **options))
    assert shown(sample) == expected
    if options.get("assignment") == "one-to-one" and images == 4:
        assert sample.meta["left_out"] == {"assignment": 1}
    if options:
        by_name = {one["image_name"]: one["matched_sim"] for one in sample.meta["images"]}
        assert (by_name["1.png"], by_name["2.png"]) == (0.25, 0.35)


def test_an_image_that_is_missing_takes_no_sentence(read: Read, tmp_path: Path) -> None:
    (tmp_path / "images" / "2.png").unlink()
    sample = only(read(assigned(3), assignment="one-to-one", missing="drop-image"))
    assert shown(sample) == "S0<1>S1<0>S2"  # 0.40 + 0.20 without the third


@pytest.mark.parametrize(
    "matrix",
    [
        [],
        [[0.1, 0.2, 0.3]],
        [[0.1], [0.2], [0.3]],
        [[0.1, "a", 0.3]] * 3,
        [[0.1, 10**400, 0.3]] * 3,
        [[0.1, float("nan"), 0.3]] * 3,
        [1, 2, 3],
    ],
)
def test_a_matrix_of_another_shape_is_broken(read: Read, matrix: Any) -> None:
    record = document(3, THREE, similarity_matrix=matrix)
    row = filtered(read(record, assignment="one-to-one"))
    assert (row.group, row.reason) == ("broken", "broken record")
    assert "'similarity_matrix'" in row.detail
    assert isinstance(only(read(record)), Sample)


@pytest.mark.parametrize("value", [None, "0.3", float("nan")])
def test_a_similarity_is_only_needed_by_the_rules_that_use_it(read: Read, value: Any) -> None:
    record = document(3, THREE)
    record["image_info"][0]["matched_sim"] = value
    assert shown(only(read(record))) == "<1>S0<0><2>S1 S2"
    assert "matched_sim" in filtered(read(record, min_similarity=0.2)).detail
    assert "matched_sim" in filtered(read(record, choose="best", max_images=1)).detail


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"place": "after", "layout": "pairs"}, "layout: interleaved"),
        ({"min_images": 7}, "min_images 7 is over max_images 6"),
        ({"need_all_images": True, "missing": "drop-image"}, "drop-document"),
        ({"layout": "images_first"}, "images-first"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Mmc4Options.model_validate(options)


def test_text_is_as_it_stood(read: Read) -> None:
    assert only(read(document(1, [(0, 0.3)]))).parts == (Image(0), Text("S0"))
