from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.archives import fetched, link, pair_members, write_tar
from tests.data.make import documents, noise, picture, write_corpus, write_images
from tests.data.test_data_bad_input import reasons
from tests.data.test_data_readers import read, samples
from vila_core.data.readers import READERS
from vila_core.data.readers.records import Broken
from vila_core.data.sample import Image, Sample, Text
from vila_core.errors import UserError

RED, BLUE, JPEG = picture((255, 0, 0)), picture((0, 0, 255)), noise()


def keys(rows: list[Any]) -> list[str]:
    return [row.key for row in rows if isinstance(row, Sample)]


def img2dataset(folder: Path, layout: str) -> Path:
    """Two shards as img2dataset 1.47 writes them; the second row of each could not be fetched."""
    for shard in ("00000", "00001"):
        names = [f"{shard}0000", f"{shard}0002"]
        rows = [fetched(name, f"picture {name}", clip_similarity_vitb32=0.3) for name in names]
        lost = fetched(f"{shard}0001", "gone", status="failed_to_download", error_message="404")
        table = pa.Table.from_pylist([rows[0], lost, rows[1]])
        if layout == "webdataset":
            files: dict[str, bytes | str] = {}
            for row in rows:
                files |= pair_members(row["key"], row["caption"], JPEG, clip_similarity_vitb32=0.3)
            write_tar(folder / f"{shard}.tar", files)
        elif layout == "files":
            for row in rows:
                members = pair_members(row["key"], row["caption"], JPEG, clip_similarity_vitb32=0.3)
                data = {n: v if isinstance(v, bytes) else v.encode() for n, v in members.items()}
                write_images(folder / shard, data)
        else:
            table = table.append_column("jpg", pa.array([JPEG, None, JPEG], pa.binary()))
            table = table.append_column("txt", table.column("caption"))
        pq.write_table(table, folder / f"{shard}.parquet")
        (folder / f"{shard}_stats.json").write_text(json.dumps({"count": 3, "successes": 2}))
    return folder


@pytest.mark.parametrize("layout", ["webdataset", "files", "parquet"])
def test_img2dataset_leaves_pairs_in_three_layouts(tmp_path: Path, layout: str) -> None:
    rows = read("img2dataset", img2dataset(tmp_path, layout))
    step = 2 if layout == "parquet" else 1  # a table has the rows that failed as well
    assert keys(rows) == [f"img2dataset/0000{s}/00000{n * step}" for s in (0, 1) for n in (0, 1)]
    lost = [("missing image", "404")] * 2 if layout == "parquet" else []
    assert reasons(rows) == lost
    first = next(row for row in rows if isinstance(row, Sample))
    assert first.kind == "caption"
    assert first.parts == (Image(0), Text("picture 000000000"))
    assert first.images == (JPEG,)
    where = {
        "webdataset": "00000.tar:000000000",
        "files": "00000/000000000",
        "parquet": "00000.parquet row 0",
    }
    assert first.meta == {
        "id": "000000000",
        "url": "https://pictures.invalid/000000000",
        "width": 16,
        "height": 16,
        "original_width": 640,
        "original_height": 640,
        "sha256": "0" * 64,
        "clip_similarity_vitb32": 0.3,
        "source": where[layout],
    }


def test_img2dataset_shards_that_are_not_finished(tmp_path: Path) -> None:
    img2dataset(tmp_path, "webdataset")
    (tmp_path / "00001_stats.json").unlink()
    with pytest.raises(UserError, match=r"00001\.tar: img2dataset has not finished it"):
        read("img2dataset", tmp_path)
    (tmp_path / "00000_stats.json").unlink()
    assert len(samples(read("img2dataset", tmp_path))) == 4  # none is there: they were taken away
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no tar, folder of images or table"):
        read("img2dataset", tmp_path / "empty")
    with pytest.raises(UserError, match="name the output folder of img2dataset"):
        read("img2dataset", tmp_path / "00000.tar")


def test_a_record_of_a_tar_is_small_and_travels(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pair_members("x", "a", noise(size=128)))
    (file,) = READERS["webdataset"].files(path)
    (record,) = file.records()
    data = pickle.dumps(record)
    assert len(data) < 1000
    assert pickle.loads(data) == record


def test_webdataset_takes_text_where_it_is(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "train-000.tar",
        {
            "./a/0.JPG": JPEG,
            "./a/0.txt": "\ufeff in txt ",
            "./a/0.json": '{"caption": "in json", "license": "CC0", "n": 1}',
            "b.png": RED,
            "b.json": '{"text": "in text"}',
            "c.cls": "2",
            "c.png": BLUE,
            "d.000.png": RED,
            "d.001.jpg": JPEG,
            "d.caption": "two",
            "d.npy": b"...",
        },
    )
    (tmp_path / "names.txt").write_text("cat\ndog\nred fox\n")
    rows = samples(read("webdataset", tmp_path, classes=str(tmp_path / "names.txt")))
    assert [row.parts[-1].text for row in rows] == ["in txt", "in text", "red fox", "two"]  # type: ignore[union-attr]
    assert [row.images for row in rows] == [(JPEG,), (RED,), (BLUE,), (RED, JPEG)]
    assert rows[3].parts == (Image(0), Image(1), Text("two"))
    assert rows[0].meta == {
        "id": "./a/0",
        "n": 1,
        "licence": "CC0",
        "source": "train-000.tar:./a/0",
    }
    numbers = samples(read("webdataset", tmp_path))
    assert numbers[2].parts[-1] == Text("2")
    first, *_ = read("webdataset", tmp_path, text=["json"])
    assert isinstance(first, Sample)
    assert first.parts[-1] == Text("in json")


def test_webdataset_reads_conversations(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "<image> and <image>?"},
        {"from": "gpt", "value": "two"},
    ]
    about = json.dumps({"conversations": turns, "id": 7})
    write_tar(tmp_path / "a.tar", {"k.0.png": RED, "k.1.png": BLUE, "k.json": about})
    (row,) = samples(read("webdataset", tmp_path / "a.tar"))
    assert row.kind == "conversation"
    assert row.parts[0] == Image(0, "user")
    assert row.images == (RED, BLUE)
    write_tar(tmp_path / "a.tar", {"k.0.png": RED, "k.json": about})
    assert reasons(read("webdataset", tmp_path / "a.tar")) == [
        ("image tags", "2 <image> tags, 1 images")
    ]


def test_what_a_tar_may_do(tmp_path: Path) -> None:
    pipe = tarfile.TarInfo("pipe.jpg")
    pipe.type = tarfile.FIFOTYPE
    folder = tarfile.TarInfo("folder.jpg")
    folder.type = tarfile.DIRTYPE
    path = write_tar(
        tmp_path / "a.tar",
        {
            "folder.jpg": folder,
            "0.txt": "a",
            "0.jpg": link("0.jpg", "/etc/passwd"),
            "1.jpg": link("1.jpg", "0.txt", tarfile.LNKTYPE),
            "pipe.jpg": pipe,
            "../3.jpg": JPEG,
            "/etc/4.jpg": JPEG,
            "README": "no sample",
            ".hidden": "no sample",
            "6.txt": "image lost",
            "7.jpg": JPEG,
            "8.jpg": JPEG[:40],
            "8.txt": "a",
            "9.jpg": JPEG,
            "9.txt": b"latin \xe4",
            "10.jpg": JPEG,
            "10.json": '{"caption": ',
            "11.jpg": JPEG,
            "11.json": "[1]",
            "12.jpg": JPEG,
            "12.txt": " ",
            "13.jpg": JPEG,
            "13.txt": "kept",
        },
    )
    rows = read("webdataset", path)
    assert keys(rows) == ["webdataset/a/000014"]
    damaged = "damaged archive"
    found = reasons(rows)
    assert found.pop(9)[0] == "truncated"
    assert found == [
        (damaged, "0.jpg: is a link to /etc/passwd"),
        (damaged, "1.jpg: is a link to 0.txt"),
        (damaged, "pipe.jpg: is no file"),
        (damaged, "../3.jpg: leads out of the archive"),
        (damaged, "/etc/4.jpg: leads out of the archive"),
        (damaged, "README: no name of a sample's file"),
        (damaged, ".hidden: no name of a sample's file"),
        ("missing image", "6 has txt"),
        ("empty text", "7 has jpg; none of txt, caption, text, json, cls"),
        ("broken text", "9.txt: not UTF-8 text at byte 6"),
        ("broken JSON", "10.json: Expecting value (column 12)"),
        ("broken record", "11.json: an object is expected, found list"),
        ("empty text", "12.txt"),
    ]


def test_names_twice_in_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "0.txt", "0.jpg", "1.jpg", "1.txt", "0.jpg", "0.txt"):
            (tmp_path / "x").write_bytes(JPEG if name.endswith("jpg") else b"text")
            tar.add(tmp_path / "x", name)
    rows = read("webdataset", tmp_path / "a.tar")
    assert reasons(rows) == [("damaged archive", "0.jpg: two members of this name")]
    # A name that comes again later is a record of its own: ids may repeat, keys never do.
    assert keys(rows) == ["webdataset/a/000001", "webdataset/a/000002"]
    assert [row.meta["id"] for row in rows if isinstance(row, Sample)] == ["1", "0"]


def damaged_tars(whole: bytes) -> dict[str, bytes]:
    header = bytearray(whole)
    second = whole.index(b"1.jpg")
    header[second + 150] ^= 1
    huge = bytearray(whole)
    huge[second + 124 : second + 136] = b"\x80" + b"\x7f" * 11
    huge[second + 148 : second + 156] = b" " * 8
    huge[second + 148 : second + 156] = b"%06o\0 " % sum(huge[second : second + 512])
    return {
        "is cut off, or no tar: it lacks the end mark": whole[:-2048],
        "after 100 bytes": whole[:100],
        "no header and no end mark at byte": bytes(header),
        "reaches beyond its end": bytes(huge),
        "goes on after its end mark": whole + whole,
        "is cut off": b"",
    }


def test_damaged_tars_stop_with_one_message(tmp_path: Path) -> None:
    files = {"0.jpg": JPEG, "0.txt": "a", "1.jpg": JPEG, "1.txt": "b" * 600}
    path = write_tar(tmp_path / "a.tar", files)
    whole = path.read_bytes()
    whole = whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 1536]
    path.write_bytes(whole)
    assert len(samples(read("webdataset", path))) == 2
    for message, data in damaged_tars(whole).items():
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            read("webdataset", path)


def test_a_large_member_is_not_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.txt": "a"})
    info = tarfile.TarInfo("1.jpg")
    info.size = 200 * 2**20
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(data[:1024] + info.tobuf())
        file.seek(info.size + 10240, os.SEEK_CUR)
        file.truncate()
    found = reasons(read("webdataset", path))
    assert found == [("file too large", "1.jpg: 209,715,200 bytes")]


def test_a_tar_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pair_members("x", "a", JPEG))
    reader = READERS["webdataset"]
    (file,) = reader.files(path)
    (record,) = file.records()
    convert = reader.converter(path, None, reader.options())
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(Broken, match=r"x\.json: 0 of \d+ bytes are there"):
        convert("a/a/000000", record.value)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.tar: can't be read: No such file"):
        convert("a/a/000000", record.value)


def wids(folder: Path, *rows: dict[str, Any], **facts: Any) -> Path:
    meta = {
        "name": "coyo-dev",
        "__kind__": "VILA-WebDataset",
        "wids_version": 1,
        "shardlist": list(rows),
        **facts,
    }
    (folder / "wids-meta.json").write_text(json.dumps(meta))
    return folder


def test_vila_wds_reads_the_tars_that_are_listed(tmp_path: Path) -> None:
    for name in ("part/b.tar", "a.tar", "left.tar"):
        write_tar(tmp_path / name, {f"{name[0]}.jpg": JPEG, f"{name[0]}.txt": name})
    size = (tmp_path / "a.tar").stat().st_size
    rows = (
        {"url": "/mnt/coyo/part/b.tar", "nsamples": 1},
        {"url": "a.tar", "nsamples": 1, "filesize": size},
    )
    found = samples(read("vila-wds", wids(tmp_path, *rows)))
    assert keys(list(found)) == ["vila-wds/part/b/000000", "vila-wds/a/000000"]
    assert found[0].parts == (Image(0), Text("part/b.tar"))


@pytest.mark.parametrize(
    ("rows", "facts", "message"),
    [
        ([{"url": "a.tar", "filesize": 3}], {}, "a.tar: has 10,240 bytes, wids-meta.json says 3"),
        ([{"url": "b.tar"}], {}, "lists b.tar, which is not in"),
        ([{"url": "a.tar"}, {"url": "./a.tar"}], {}, "lists a.tar twice"),
        ([{"url": "../a.tar"}], {}, "leads out of its folder"),
        ([{"url": "s3://bucket/a.tar"}], {}, "lies elsewhere"),
        ([{"url": 3}], {}, "has no 'url'"),
        (["a.tar"], {}, "has no 'url'"),
        ([], {}, "'shardlist' is no list of tars"),
        ([{"url": "a.tar"}], {"__kind__": "other"}, "is of kind 'other'"),
        ([{"url": "a.tar"}], {"wids_version": 2}, "version 2"),
    ],
)
def test_vila_wds_lists_that_lie(
    tmp_path: Path, rows: list[Any], facts: dict[str, Any], message: str
) -> None:
    write_tar(tmp_path / "a.tar", {"a.jpg": JPEG, "a.txt": "a"})
    with pytest.raises(UserError) as caught:
        read("vila-wds", wids(tmp_path, *rows, **facts))
    assert message in str(caught.value)


def test_tars_that_are_not_there_or_compressed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no wids-meta\.json"):
        read("vila-wds", tmp_path)
    with pytest.raises(UserError, match=r"holds no file of \.tar"):
        read("webdataset", tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a.tar.gz"):
        with pytest.raises(UserError, match="compressed tars can't be read"):
            read("webdataset", path)


def test_pairs_are_files_of_one_name(tmp_path: Path) -> None:
    write_images(
        tmp_path,
        {
            "b.png": BLUE,
            "b.caption": b"blue",
            "a.1.JPG": JPEG,
            "a.1.txt": b"first",
            "a.1.json": b'{"url": "u", "caption": "not this"}',
            "more cats/x.jpeg": JPEG,
            "more cats/x.json": b'{"caption": "in json"}',
            "more cats/deep/y.webp": picture(form="WEBP"),
            "more cats/deep/y.txt": b"deep",
            ".hidden/z.jpg": JPEG,
            "notes.md": b"nothing",
        },
    )
    rows = samples(read("pairs", tmp_path))
    assert keys(list(rows)) == [
        "pairs/files/000000",
        "pairs/files/000001",
        "pairs/more-cats/000000",
        "pairs/more-cats/deep/000000",
    ]
    assert [row.parts[1].text for row in rows] == ["first", "blue", "in json", "deep"]  # type: ignore[union-attr]
    assert rows[0].meta == {"id": "a.1", "url": "u", "source": "a.1"}


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """A link named 1.jpg that leads to / would make a corpus of the whole disk."""
    write_images(tmp_path / "else", {"a.jpg": JPEG, "a.txt": b"a"})
    corpus = write_images(tmp_path / "corpus", {"b.jpg": JPEG})
    for name, target in (("linked", tmp_path / "else"), ("loop", corpus), ("1.jpg", Path("/"))):
        (corpus / name).symlink_to(target)
    (corpus / "b.txt").symlink_to(tmp_path / "else" / "a.txt")  # links to files are
    (row,) = samples(read("pairs", corpus))
    assert row.parts[1] == Text("a")


def test_pairs_that_are_none(tmp_path: Path) -> None:
    write_images(
        tmp_path,
        {
            **dict.fromkeys(("a.jpg", "c.jpg", "e.jpg"), JPEG),
            **{f"{name}.txt": name.encode() for name in "bcd"},
            "c.png": RED,
            "d.jpg": b"<html>",
        },
    )
    (tmp_path / "e.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "f.jpg")
    (tmp_path / "f.txt").write_text("f")
    os.symlink(tmp_path / "a.jpg", os.fsencode(tmp_path) + b"/\xff.jpg")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))).write_text("g")
    found = reasons(read("pairs", tmp_path))
    assert found == [
        ("empty text", "a has jpg; none of txt, caption, text, json"),
        ("missing image", "b has txt"),
        ("several images", "c is there as jpg, png"),
        ("not an image", "d.jpg: 6 bytes, starting 3c 68 74 6d 6c 3e"),
        ("missing image", "e.txt"),
        ("missing image", "f.jpg: is not a file"),
        ("broken text", found[6][1]),
    ]
    assert "half of a surrogate pair" in found[6][1]
    with pytest.raises(UserError, match="no such folder"):
        read("pairs", tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        read("pairs", tmp_path / "empty")


def test_prepared_shards_are_a_corpus_again(tmp_path: Path) -> None:
    old = write_corpus(tmp_path, "web", documents("web", 5), shard_samples=3)
    folder = tmp_path / "web"
    again = samples(list(READERS["prepared"].read(folder, corpus="web")))
    assert keys(list(again)) == [f"web/00000/00000{n}" for n in range(5)]
    assert [row.digest for row in again] == [old.read(n).digest for n in range(5)]
    assert [row.meta["source"] for row in again] == keys(list(again))
    other = samples(read("prepared", folder))
    assert keys(list(other)) == [f"prepared/00000/00000{n}" for n in range(5)]
    assert [row.meta["prepared_key"] for row in other] == keys(list(again))
    tar = folder / "web-00000.tar"
    data = bytearray(tar.read_bytes())
    data[int(old.index.offset[1]) + 30] ^= 1
    data[int(old.index.offset[2]) + int(old.index.image_offset[3]) + 50] ^= 1
    tar.write_bytes(data)
    rows = read("prepared", folder)
    assert [reason for reason, _ in reasons(rows)] == ["damaged shard"] * 2
    assert len(keys(rows)) == 3
    tar.unlink()
    with pytest.raises(UserError, match="the shard is missing"):
        read("prepared", folder)
    with pytest.raises(UserError, match="is not a prepared corpus"):
        read("prepared", tmp_path)
    (folder / "index.npz").write_bytes(b"")
    with pytest.raises(UserError, match="is not a readable index"):
        read("prepared", folder)
