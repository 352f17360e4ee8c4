from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.make import noise, picture, png_header, write_images, write_lines
from vila_core.data.readers import READERS
from vila_core.data.readers.files import corpus_files, shard_name
from vila_core.data.sample import Image, Sample, SetAside, Text
from vila_core.errors import UserError

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))


def read(name: str, path: Path, **options: Any) -> list[Sample | SetAside]:
    reader = READERS[name]
    chosen = reader.options.model_validate(options)
    return list(reader.read(path, corpus=name, options=chosen))


def samples(rows: list[Sample | SetAside]) -> list[Sample]:
    assert all(isinstance(row, Sample) for row in rows), rows
    return [row for row in rows if isinstance(row, Sample)]


def set_aside(rows: list[Sample | SetAside]) -> list[SetAside]:
    return [row for row in rows if isinstance(row, SetAside)]


def document(texts: list[str], images: list[tuple[str, int]], **more: Any) -> dict[str, Any]:
    info = [
        {
            "image_name": name,
            "matched_text_index": place,
            "matched_sim": 0.3,
            "raw_url": f"u/{name}",
        }
        for name, place in images
    ]
    return {"text_list": texts, "image_info": info, "url": "https://a.invalid", **more}


def test_mmc4_puts_images_before_their_sentences_in_page_order(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"r.png": RED, "b.png": BLUE})
    record = document(["One. ", "Two.", " Three."], [("b.png", 2), ("r.png", 1), ("b.png", 1)])
    path = write_lines(tmp_path / "docs_no_face_shard_17_v2.jsonl", [record])
    (sample,) = samples(read("mmc4", path))
    assert sample.key == "mmc4/00017/000000"
    assert sample.kind == "interleaved"
    assert sample.parts == (
        Text("One."),
        Image(0),
        Image(1),
        Text("Two."),
        Image(2),
        Text("Three."),
    )
    assert sample.images == (RED, BLUE, BLUE)
    assert sample.meta["url"] == "https://a.invalid"
    assert [image["image_name"] for image in sample.meta["images"]] == ["r.png", "b.png", "b.png"]


def test_mmc4_uses_the_first_images_in_page_order(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {f"{n}.png": picture((n, 0, 0)) for n in range(8)})
    record = document(["a", "b"], [(f"{n}.png", n % 2) for n in range(8)])
    path = write_lines(tmp_path / "d.jsonl", [record])
    (default,) = samples(read("mmc4", path))
    assert default.images == tuple(picture((n, 0, 0)) for n in (0, 2, 4, 1, 3, 5))
    (two,) = samples(read("mmc4", path, max_images=2))
    assert len(two.images) == 2
    record["image_info"][0]["matched_sim"] = 0.1
    path = write_lines(tmp_path / "d.jsonl", [record])
    (close,) = samples(read("mmc4", path, min_similarity=0.24, max_images=2))
    assert close.images == (picture((2, 0, 0)), picture((1, 0, 0)))


def test_mmc4_reading_twice_gives_the_same(tmp_path: Path) -> None:
    """VILA's first loader edited documents in place: wrong from the second epoch on."""
    write_images(tmp_path / "images", {"r.png": RED})
    path = write_lines(tmp_path / "d.jsonl", [document(["a <image> b"], [("r.png", 0)])])
    assert read("mmc4", path) == read("mmc4", path)
    (sample,) = samples(read("mmc4", path))
    assert sample.parts == (Image(0), Text("a <image> b"))  # the encoder breaks the forged tag up


def coyo_table(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_coyo_finds_images_by_id_by_path_and_inside(tmp_path: Path) -> None:
    jpeg = noise()
    write_images(tmp_path / "images", {"5.jpg": jpeg, "sub/6.png": RED})
    path = coyo_table(
        tmp_path / "part-00003-ab.parquet",
        id=[5, 6, 7],
        url=["u5", "u6", "u7"],
        text=[" a cat ", "b", "c"],
        image_path=[None, "sub/6.png", None],
        image=[None, None, BLUE],
    )
    rows = samples(read("coyo", path))
    assert [row.key for row in rows] == [f"coyo/00003/00000{n}" for n in range(3)]
    assert [row.images for row in rows] == [(jpeg,), (RED,), (BLUE,)]
    assert rows[0].parts == (Image(0), Text("a cat"))
    assert dict(rows[0].meta) == {
        "id": 5,
        "url": "u5",
        "source": "part-00003-ab.parquet row 0",
        "licence": "CC-BY-4.0",
    }


def test_llava_keeps_tags_in_place_and_order(tmp_path: Path) -> None:
    write_images(tmp_path / "images", {"r.png": RED, "d/b.png": BLUE})
    turns = [
        {"from": "gpt", "value": "dropped"},
        {"from": "human", "value": "what <image> and\n<image>?"},
        {"from": "gpt", "value": "two"},
        {"from": "human", "value": "sure"},
        {"from": "gpt", "value": "yes"},
    ]
    records = [
        {"id": "x", "image": ["r.png", "d/b.png"], "conversations": turns},
        {"id": "y", "conversations": turns[3:]},
    ]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(records, indent=1))
    visual, text = samples(read("llava", path))
    assert visual.key == "llava/chat/000000"
    assert visual.parts == (
        Text("what ", "user"),
        Image(0, "user"),
        Text(" and\n", "user"),
        Image(1, "user"),
        Text("?", "user"),
        Text("two", "assistant"),
        Text("sure", "user"),
        Text("yes", "assistant"),
    )
    assert visual.images == (RED, BLUE)
    assert (visual.kind, text.kind) == ("conversation", "text-only")
    lines = write_lines(tmp_path / "chat.jsonl", records)
    assert [s.digest for s in samples(read("llava", lines))] == [visual.digest, text.digest]


def test_flan_reads_json_lines_and_parquet(tmp_path: Path) -> None:
    lines = write_lines(
        tmp_path / "a.jsonl",
        [
            {"inputs": "1 plus 1 ", "targets": "2", "_task_name": "sum"},
            {"question": "q", "answer": "a", "id": "text_flan_1"},
            {"text": "just text"},
        ],
    )
    first, second, third = samples(read("flan", lines))
    assert first.parts == (Text("1 plus 1", "user"), Text("2", "assistant"))
    assert dict(first.meta) == {
        "_task_name": "sum",
        "source": "a.jsonl:1",
        "licence": "CC-BY-4.0",
    }
    assert second.parts == (Text("q", "user"), Text("a", "assistant"))
    assert third.parts == (Text("just text"),)
    table = tmp_path / "part-1.parquet"
    pq.write_table(pa.table({"inputs": ["1 plus 1"], "targets": ["2"]}), table)
    (row,) = samples(read("flan", table))
    assert (row.key, row.digest) == ("flan/00001/000000", first.digest)


def test_broken_lines_are_set_aside_with_file_and_line(tmp_path: Path) -> None:
    good = {"inputs": "a", "targets": "b"}
    path = write_lines(tmp_path / "a.jsonl", [good, '{"inputs": "a', "", "[1]", good])
    path.write_bytes(path.read_bytes() + b'{"inputs": "\xff"}\n' + b"[" * 100_000 + b"\n")
    rows = read("flan", path)
    assert [row.key for row in rows if isinstance(row, Sample)] == [
        "flan/a/000000",
        "flan/a/000004",  # a key counts lines, so what is broken beside a sample doesn't move it
    ]
    assert [(row.where, row.reason) for row in set_aside(rows)] == [
        ("a.jsonl:2", "broken JSON"),
        ("a.jsonl:4", "broken record"),
        ("a.jsonl:6", "broken JSON"),
        ("a.jsonl:7", "broken JSON"),
    ]
    assert [row.detail for row in set_aside(rows)] == [
        "Unterminated string starting at (column 12)",
        "an object is expected, found list",
        "not UTF-8 text at byte 12",
        "nested too deeply",
    ]


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        (document(["a"], [("none.png", 0)]), "missing image", "none.png"),
        (document(["a"], [("cut.png", 0)]), "truncated", "cut.png: "),
        (document(["a"], [("page.png", 0)]), "not an image", "page.png: 13 bytes"),
        (document(["a"], [("bomb.png", 0)]), "too large", "bomb.png: more than 50,000,000 pixels"),
        (document(["a"], [("dot.png", 0)]), "too small", "dot.png: 1 x 1"),
        (document(["a"], [("../d.jsonl", 0)]), "broken record", "leads out of the image folder"),
        (document(["a"], [("/etc/hostname", 0)]), "broken record", "leads out of the image folder"),
        (document(["a"], [("images", 1)]), "broken record", "matched_text_index 1, 1 sentences"),
        (document([" ", ""], []), "empty text", "'text_list'"),
        (document([1], []), "broken record", "something other than text"),  # type: ignore[list-item]
        ({"text_list": "a", "image_info": []}, "broken record", "is str, expected list"),
        ({"text_list": ["a"]}, "broken record", "'image_info' is missing"),
        ({"text_list": ["a"], "image_info": [3]}, "broken record", "an object is expected"),
    ],
)
def test_mmc4_reasons(tmp_path: Path, record: Any, reason: str, detail: str) -> None:
    write_images(
        tmp_path / "images",
        {
            "cut.png": RED[:-30],
            "page.png": b"<html></html>",
            "bomb.png": png_header(30_000, 30_000),
            "dot.png": picture(size=(1, 1)),
        },
    )
    (row,) = set_aside(read("mmc4", write_lines(tmp_path / "d.jsonl", [record])))
    assert (row.source, row.where, row.reason) == ("mmc4", "d.jsonl:1", reason)
    assert detail in row.detail


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        (
            {"conversations": [("human", "<image> a"), ("gpt", "b")]},
            "image tags",
            "1 <image> tags, 0 im",
        ),
        (
            {"image": "r.png", "conversations": [("human", "a"), ("gpt", "b")]},
            "image tags",
            "0 <image>",
        ),
        (
            {"image": "x.png", "conversations": [("human", "<image>"), ("gpt", "b")]},
            "missing image",
            "x",
        ),
        (
            {"image": 3, "conversations": [("human", "a"), ("gpt", "b")]},
            "broken record",
            "'image' is nei",
        ),
        ({"conversations": [("human", "a"), ("gpt", " ")]}, "empty text", "an answer"),
        ({"conversations": [("human", "a")]}, "empty text", "no answer"),
        ({"conversations": []}, "empty text", "no answer"),
        (
            {"conversations": [("human", "a"), ("human", "b")]},
            "broken record",
            "human follows user",
        ),
        ({"conversations": [("robot", "a")]}, "broken record", "'from' is 'robot'"),
    ],
)
def test_llava_reasons(tmp_path: Path, record: Any, reason: str, detail: str) -> None:
    write_images(tmp_path / "images", {"r.png": RED})
    turns = [{"from": speaker, "value": value} for speaker, value in record["conversations"]]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{**record, "conversations": turns}]))
    (row,) = set_aside(read("llava", path))
    assert (row.where, row.reason) == ("chat.json item 0", reason)
    assert detail in row.detail


def test_coyo_and_flan_reasons(tmp_path: Path) -> None:
    path = coyo_table(tmp_path / "p.parquet", id=[1, 2, None], text=["", "b", "c"])
    rows = set_aside(read("coyo", path))
    assert [(row.where, row.reason) for row in rows] == [
        ("p.parquet row 0", "empty text"),
        ("p.parquet row 1", "missing image"),
        ("p.parquet row 2", "broken record"),
    ]
    lines = write_lines(
        tmp_path / "f.jsonl",
        [{"inputs": "", "targets": "b"}, {"inputs": "a", "targets": None}, {"x": 1}],
    )
    reasons = [row.reason for row in set_aside(read("flan", lines))]
    assert reasons == ["empty text", "empty text", "broken record"]


def test_a_folder_is_read_by_file_name(tmp_path: Path) -> None:
    for name in ("b/cot_zs.jsonl", "docs_shard_10.jsonl", "docs_shard_9.jsonl"):
        write_lines(tmp_path / name, [{"text": name}])
    rows = samples(read("flan", tmp_path))
    assert [row.key for row in rows] == [
        "flan/b/cot_zs/000000",
        "flan/00010/000000",
        "flan/00009/000000",
    ]


def test_compressed_lines(tmp_path: Path) -> None:
    line = json.dumps({"text": "zipped"}) + "\n"
    with gzip.open(tmp_path / "shard_1.jsonl.gz", "wt") as file:
        file.write(line)
    with zipfile.ZipFile(tmp_path / "shard_2.jsonl.zip", "w") as archive:
        archive.writestr("shard_2.jsonl", line)
    assert [row.key for row in samples(read("flan", tmp_path))] == [
        "flan/00001/000000",
        "flan/00002/000000",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docs_no_face_shard_3218_v2.jsonl.zip", "03218"),
        ("part-00017-2256f782-126f-4dc6-c000.snappy.parquet", "00017"),
        ("00042.jsonl", "00042"),
        ("llava_v1_5_mix665k.json", "llava_v1_5_mix665k"),
        ("cot fsopt/part.0.parquet", "cot-fsopt/part.0"),
        ("…/a.jsonl", "-/a"),
    ],
)
def test_shard_names_follow_from_file_names(name: str, expected: str) -> None:
    assert shard_name(name) == expected


def damaged_files(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    yield "a.parquet", b"PAR1 no", "is not a readable parquet file"
    yield "a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99)[:-12], "compressed file is damaged"
    yield "b.jsonl.gz", b"plain text", "can't be read"
    yield "a.jsonl.zip", b"PK nothing", "compressed file is damaged"
    yield "a.json", b'{"text": "a"}', "a JSON list of records is needed"
    yield (
        "b.json",
        b'[{"text": "a"},\n {"text" 3}]',
        "b.json:2:10: broken JSON in item 1: Expecting ':'",
    )
    yield (
        "c.json",
        b'[{"text": "a"} {"text": "b"}]',
        "c.json:1:16: broken JSON in item 1: ',' or ']'",
    )
    yield "d.json", b'[{"text": "a"},', "d.json:1:16: broken JSON in item 1: Expecting value"
    yield "e.json", b'["\xff"]', "is not UTF-8 text (byte 2)"
    yield "a.csv", b"a,b", "is not one of .jsonl"


def test_files_that_are_broken_as_a_whole(tmp_path: Path) -> None:
    for name, content, message in damaged_files(tmp_path):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read("flan", path)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)


def test_missing_and_ambiguous_corpora(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        corpus_files(tmp_path / "none")
    with pytest.raises(UserError, match="holds no file of"):
        corpus_files(tmp_path)
    write_lines(tmp_path / "shard_1.jsonl", [])
    write_lines(tmp_path / "shard_01_v2.jsonl", [])
    with pytest.raises(UserError, match="would both be shard '00001'"):
        corpus_files(tmp_path)
