"""What a hostile or careless corpus may hold: set aside, or stopped with one message."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PilImage

from tests.data.make import noise, picture, write_images, write_lines
from tests.data.test_data_readers import read, samples, set_aside
from vila_core.data.readers import arrays, lines
from vila_core.data.readers.records import Broken, Filtered
from vila_core.data.sample import Sample
from vila_core.errors import UserError
from vila_core.images import decode

RED = picture((255, 0, 0))
NULL = "\\u0000"


def reasons(rows: list[Any]) -> list[tuple[str, str]]:
    return [(row.reason, row.detail) for row in set_aside(rows)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_other_encodings_stop_with_the_command_that_helps(
    tmp_path: Path, encoding: str, name: str
) -> None:
    (tmp_path / name).write_bytes('[{"text": "a"}]'.encode(encoding))
    with pytest.raises(UserError, match="UTF-8 is needed") as caught:
        read("flan", tmp_path / name)
    assert f"iconv -f UTF-16 -t UTF-8 {name}" in str(caught.value)


def test_lines_in_latin_1_are_set_aside_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        '\ufeff{"text": "ä"}\n'.encode() + '{"text": "ä"}\n{"text": "a"}\n'.encode("latin-1")
    )
    rows = read("flan", path)
    assert [row.key for row in rows if isinstance(row, Sample)] == [
        "flan/a/000000",
        "flan/a/000002",
    ]
    assert reasons(rows) == [("broken JSON", "not UTF-8 text at byte 10")]


def test_text_that_cannot_be_written_is_set_aside(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        [
            '{"text": "half \\ud83d of one"}',
            f'{{"text": "nul {NULL}"}}',
            '{"text": "fine", "url": "\\ud83d"}',
            '{"text": "\\ud83d\\ude00"}',
            f'{{"text": "a", "id": {"[" * 50}{"]" * 50}}}',
            '{"text": "a", "id": NaN, "url": [Infinity, 1e400, 3]}',
            f'{{"text": "a", "id": {"9" * 5000}}}',
            f'{{"text": "a", "id": {"9" * 4000}}}',
        ],
    )
    rows = read("flan", path)
    kept = [row for row in rows if isinstance(row, Sample)]
    assert [row.key[-1] for row in kept] == ["3", "5", "7"]
    assert kept[0].parts[0].text == "\U0001f600"  # type: ignore[union-attr]
    assert (kept[1].meta["id"], kept[1].meta["url"]) == (None, [None, None, 3])
    assert reasons(rows) == [
        ("broken text", "'\\ud83d' is half of a surrogate pair, not a character"),
        ("broken text", "holds NUL characters"),
        (
            "broken text",
            "in what belongs to the sample: '\\ud83d' is half of a surrogate pair, not a character",
        ),
        ("broken record", "a field nests deeper than 8 levels"),
        (
            "broken JSON",
            "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits",
        ),
    ]


def test_the_reason_survives_the_way_to_another_process() -> None:
    for error in (Broken("missing image", "a.png"), Filtered("images", "9")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.reason, again.detail) == (
            type(error),
            error.reason,
            error.detail,
        )


def test_a_line_that_never_ends_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 64)
    long = json.dumps({"text": "a" * 100_000})
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a"}, long, {"text": "b"}])
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as file:
        file.write(path.read_bytes())
    rows = read("flan", tmp_path)
    assert [row.key for row in rows if isinstance(row, Sample)] == [
        f"flan/{shard}/00000{n}" for shard in "ab" for n in (0, 2)
    ]
    assert reasons(rows) == [("record too large", "a line of more than 64 bytes")] * 2


@pytest.mark.parametrize("one_line", [True, False])
@pytest.mark.parametrize("suffix", ["gz", "zip"])
def test_bombs_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, one_line: bool
) -> None:
    monkeypatch.setattr(lines, "UNJUDGED_BYTES", 2**20)
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 2**16)
    content = b" " * 2**24 if one_line else b"\n" * 2**24
    path = tmp_path / f"a.jsonl.{suffix}"
    if suffix == "gz":
        path.write_bytes(gzip.compress(content))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.jsonl", content)
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        read("flan", path)


def test_zips_of_lines_that_cannot_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", b'{"text": "a"}\n')
    whole = path.read_bytes()
    for at, value in ((6, 1), (8, 99)):  # a password; a method that nobody has
        broken = bytearray(whole)
        central = whole.index(b"PK\x01\x02")
        broken[at] = broken[central + at + 2] = value
        path.write_bytes(broken)
        with pytest.raises(UserError, match="can't be unpacked"):
            read("flan", path)


def test_a_long_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[Any] = [{"text": f"ä \U0001f600 {'x' * (n % 37)}", "id": n} for n in range(200)]
    path = tmp_path / "chat.json"
    for indent in (None, 1):
        path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8-sig")
        for block in (1, 7, 64, 1000):
            monkeypatch.setattr(arrays, "_BLOCK", block)
            rows = samples(read("flan", path))
            assert [row.meta["id"] for row in rows] == list(range(200))
            assert rows[-1].parts[0].text == items[-1]["text"]  # type: ignore[union-attr]
    path.write_text("[1234, 5678]")
    monkeypatch.setattr(arrays, "_BLOCK", 3)
    assert len(read("flan", path)) == 2  # a number is not cut in two
    for text, place in (
        ('[{"text": "a"},\n\n  {"text" 3}]', "3:11"),
        ('[{"text": "a"}] []', "1:17"),
        ('[{"text": "a"},\n{"text": "b', "2:10"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"chat.json:{place}: broken JSON"):
            read("flan", path)
    path.write_bytes(b'[{"text": "a"},  "\xff"]')
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte 18\)"):
        read("flan", path)
    monkeypatch.setattr(arrays, "MAX_RECORD_BYTES", 50)
    path.write_text(f'[{{"text": "{"a" * 500}"}}]')
    with pytest.raises(UserError, match="an item of more than 50 characters"):
        read("flan", path)


def test_tables_without_their_columns_stop_before_anything_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "image": [RED]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"caption": ["a"], "id": [1]}), tmp_path / "part-1.parquet")
    with pytest.raises(UserError) as caught:
        read("coyo", tmp_path)
    assert "part-1.parquet: lacks the column 'text'; it has caption, id" in str(caught.value)
    pq.write_table(pa.table({"inputs": ["a"]}), tmp_path / "part-1.parquet")
    with pytest.raises(UserError, match=r"part-1.parquet: lacks the column 'targets'"):
        read("flan", tmp_path / "part-1.parquet")
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"part-1.parquet: is not a readable parquet file"):
        read("coyo", tmp_path)


def test_rows_that_are_not_text_are_set_aside(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")],
    )
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    rows = read("flan", tmp_path / "a.parquet")
    assert [row.key[-1] for row in rows if isinstance(row, Sample)] == ["0", "2"]
    ((reason, detail),) = reasons(rows)
    assert reason == "broken row"
    assert "can't decode byte 0xff" in detail


def coyo(folder: Path, *names: str) -> list[Any]:
    table = {"text": ["a"] * len(names), "image_path": list(names)}
    pq.write_table(pa.table(table), folder / "p.parquet")
    return read("coyo", folder / "p.parquet")


def test_image_names_that_are_no_files(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"a.png": RED})
    (images / "folder").mkdir()
    os.mkfifo(images / "pipe.png")
    (images / "loop.png").symlink_to("loop.png")
    outside = ("../p.parquet", "/etc/passwd", "a\0.png", "")
    absent = ("x" * 5000, "folder", "pipe.png", "loop.png", "a.png/b", "\x1b[2J")
    found = reasons(coyo(tmp_path, *outside, *absent))
    assert [reason for reason, _ in found] == ["broken record"] * 4 + ["missing image"] * 6
    assert all("leads out of the image folder" in detail for _, detail in found[:4])
    assert found[4][1].startswith("x" * 100)
    assert found[4][1].endswith("File name too long")
    assert found[6][1] == "pipe.png: is not a file"  # and opening it waited for nobody
    assert "symbolic links" in found[7][1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that can't be read")
def test_a_disk_that_fails_stops(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"a.png": RED})
    # Reading the start of one's own memory is an input/output error.
    (images / "bad.png").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=r"bad\.png: can't be read: Input/output error"):
        coyo(tmp_path, "a.png", "bad.png")


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"a.png": RED})
    with (images / "big.png").open("wb") as file:
        file.truncate(2**40)
    assert reasons(coyo(tmp_path, "big.png")) == [
        ("file too large", "big.png: 1,099,511,627,776 bytes")
    ]


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_are_read_out_of_a_zip(tmp_path: Path, method: int) -> None:
    zipped(tmp_path / "images.zip", {"00/a.png": RED, "00/b.jpg": noise()}, method)
    rows = coyo(tmp_path, "00/a.png", "00/b.jpg", "00/c.png")
    assert [row.images for row in rows if isinstance(row, Sample)] == [(RED,), (noise(),)]
    assert reasons(rows) == [("missing image", "00/c.png in images.zip")]
    pq.write_table(pa.table({"text": ["a"], "id": ["00/b"]}), tmp_path / "p.parquet")
    (row,) = samples(read("coyo", tmp_path / "p.parquet"))
    assert row.images == (noise(),)


def hostile_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("twice.png", RED)
        archive.writestr("twice.png", noise())
        archive.writestr("packed.png", RED, zipfile.ZIP_LZMA)
        archive.writestr("bomb.png", bytes(200 * 2**20), zipfile.ZIP_DEFLATED)
        archive.writestr("../out.png", RED)
        archive.writestr("flipped.png", RED)


def test_what_a_zip_may_do(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        hostile_zip(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"flipped.png") + 11 + 20] ^= 1
    path.write_bytes(data)
    found = reasons(
        coyo(
            tmp_path, "link.png", "twice.png", "packed.png", "bomb.png", "../out.png", "flipped.png"
        )
    )
    assert found == [
        ("damaged archive", "link.png: is a link"),
        ("damaged archive", "twice.png: two files of this name"),
        ("damaged archive", "packed.png: is packed by method 14; stored and deflated can be read"),
        ("file too large", "bomb.png: 209,715,200 bytes"),
        ("broken record", "image name '../out.png' leads out of the image folder"),
        ("damaged archive", "flipped.png: its bytes are not the ones that were packed"),
    ]
    path.write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"images\.zip: is not a readable zip"):
        coyo(tmp_path, "a.png")


def test_odd_images_are_kept_and_decode_upright_in_rgb(tmp_path: Path) -> None:
    """Animations, CMYK, 16 bits, EXIF rotation and a wrong extension are no defects."""
    frames = [PilImage.new("RGB", (16, 16), color) for color in ("red", "blue")]
    images = tmp_path / "images"
    images.mkdir()
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    exif = PilImage.Exif()
    exif[0x0112] = 6
    write_images(
        images,
        {
            "cmyk.jpg": picture((0, 255, 255, 0), (16, 16), "JPEG", "CMYK"),
            "deep.png": picture(40000, (16, 16), "PNG", "I;16"),
            "turned.jpg": picture(size=(32, 16), form="JPEG", exif=exif),
            "a_png.jpg": RED,
        },
    )
    rows = samples(coyo(tmp_path, "moving.gif", "cmyk.jpg", "deep.png", "turned.jpg", "a_png.jpg"))
    decoded = [decode(row.images[0]) for row in rows]
    assert [image.mode for image in decoded] == ["RGB"] * 5
    assert decoded[0].getpixel((0, 0)) == (255, 0, 0)
    assert decoded[2].getpixel((0, 0)) == (156, 156, 156)
    assert decoded[3].size == (16, 32)


def test_details_can_always_be_printed_and_written(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        [json.dumps({"conversations": [{"from": "\udc80\0" + "x" * 9999, "value": ""}]})],
    )
    ((_, detail),) = reasons(read("llava", path))
    assert "\\udc80" in detail
    assert len(detail) < 320
    detail.encode()
