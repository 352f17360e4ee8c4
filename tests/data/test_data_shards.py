from __future__ import annotations

import gc
import hashlib
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.make import captions, documents, encoder, picture, texts, write_corpus
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Counts
from vila_core.data.sample import Image, Text, make_sample
from vila_core.data.shards import ShardWriter
from vila_core.errors import Damaged, UserError


def tree(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = documents("docs", 25)
    corpus = write_corpus(tmp_path, "docs", made, shard_samples=10)
    assert len(corpus) == 25
    assert [corpus.read(n) for n in range(25)] == made
    assert [corpus.key(n) for n in range(25)] == [sample.key for sample in made]
    assert [corpus.find(sample.key) for sample in made] == list(range(25))
    with pytest.raises(KeyError):
        corpus.find("docs/00000/000025")
    again = pickle.loads(pickle.dumps(corpus))
    assert again.read(3) == made[3]


def test_raw_bytes_hold_header_and_images(tmp_path: Path) -> None:
    made = documents("docs", 5)
    corpus = write_corpus(tmp_path, "docs", made, shard_samples=2)
    index = corpus.index
    for number, sample in enumerate(made):
        data = corpus.read_bytes(number)
        assert json.loads(data[: int(index.json_size[number])])["key"] == sample.key
        first, stop = int(index.image_start[number]), int(index.image_start[number + 1])
        for image, place in zip(sample.images, range(first, stop), strict=True):
            start = int(index.image_offset[place])
            assert data[start : start + int(index.image_size[place])] == image


def test_the_index_holds_what_samples_cost(tmp_path: Path) -> None:
    made = [*captions("mix", 5), *documents("mix", 12)[5:], *texts("mix", 15)[12:]]
    corpus = write_corpus(tmp_path, "mix", made)
    counts = [encoder().count(sample) for sample in made]
    assert corpus.index.num_text_tokens.tolist() == [one.text_tokens for one in counts]
    assert corpus.index.num_supervised.tolist() == [one.supervised for one in counts]
    assert corpus.index.num_images.tolist() == [len(sample.images) for sample in made]
    whole = [len(encoder(tokens_per_image=7).encode(sample).input_ids) for sample in made]
    assert corpus.lengths(7).tolist() == whole


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_corpus(tmp_path / name, "docs", documents("docs", 30), shard_samples=7)
    assert tree(tmp_path / "one/docs") == tree(tmp_path / "two/docs")


def test_the_manifest_names_every_shard_with_its_digest(tmp_path: Path) -> None:
    write_corpus(tmp_path, "docs", documents("docs", 25), shard_samples=10)
    manifest = json.loads((tmp_path / "docs/manifest.json").read_text())
    digests = tree(tmp_path / "docs")
    shards = [f"docs-{n:05d}.tar" for n in range(3)]
    assert [(s["path"], s["sha256"]) for s in manifest["shards"]] == [
        (n, digests[n]) for n in shards
    ]
    assert [shard["samples"] for shard in manifest["shards"]] == [10, 10, 5]
    assert manifest["index_sha256"] == digests["index.npz"]
    assert (manifest["samples"], manifest["template"]) == (25, "miniature")
    assert set(digests) == {*shards, "index.npz", "manifest.json"}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_webdatasets(tmp_path: Path) -> None:
    import webdataset as wds

    made = documents("docs", 12)
    write_corpus(tmp_path, "docs", made, shard_samples=5)
    paths = [str(path) for path in sorted((tmp_path / "docs").glob("*.tar"))]
    rows = list(wds.WebDataset(paths, shardshuffle=False, empty_check=False))
    assert [row["__key__"] for row in rows] == [sample.key for sample in made]
    for row, sample in zip(rows, made, strict=True):
        header = json.loads(row["json"])
        assert (header["digest"], header["kind"]) == (sample.digest, "interleaved")
        assert tuple(row[f"{n:03d}.png"] for n in range(len(sample.images))) == sample.images
    decoded = next(iter(wds.WebDataset(paths, shardshuffle=False, empty_check=False).decode("pil")))
    assert decoded["000.png"].size == (16, 16)
    gc.collect()


def test_long_names_and_empty_contents_are_valid_tar(tmp_path: Path) -> None:
    shard = "/".join(["a" * 60] * 3)
    made = make_sample(f"docs/{shard}/000000", "caption", [Image(0), Text("ü")], [picture()])
    with ShardWriter(tmp_path / "docs", "docs", template="plain") as writer:
        writer.add(made, Counts(2, 2, 1))
        writer.finish()
    with tarfile.open(tmp_path / "docs/docs-00000.tar") as archive:
        names = archive.getnames()
    assert names == [f"{made.key}.json", f"{made.key}.000.png"]
    assert Corpus.open(tmp_path / "docs").read(0) == made


@pytest.mark.parametrize("place", ["json", "image"])
def test_damaged_bytes_are_told_with_the_key(tmp_path: Path, place: str) -> None:
    corpus = write_corpus(tmp_path, "docs", documents("docs", 4))
    path = tmp_path / "docs/docs-00000.tar"
    data = bytearray(path.read_bytes())
    start = int(corpus.index.offset[2])
    data[start + (30 if place == "json" else int(corpus.index.size[2]) - 20)] ^= 1
    path.write_bytes(data)
    corpus = Corpus.open(tmp_path / "docs")
    assert corpus.read(1).key == "docs/00000/000001"
    with pytest.raises(Damaged, match=r"docs/00000/000002: the bytes in .*docs-00000\.tar are not"):
        corpus.read(2)


def test_a_cut_or_missing_shard(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, "docs", documents("docs", 4))
    path = tmp_path / "docs/docs-00000.tar"
    path.write_bytes(path.read_bytes()[: int(corpus.index.offset[3]) + 10])
    with pytest.raises(Damaged, match="docs/00000/000003"):
        Corpus.open(tmp_path / "docs").read(3)
    path.unlink()
    with pytest.raises(Damaged, match="the shard is missing"):
        Corpus.open(tmp_path / "docs").read(0)


def test_folders_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a prepared corpus: manifest\.json is missing"):
        Corpus.open(tmp_path)
    write_corpus(tmp_path, "docs", documents("docs", 4))
    (tmp_path / "docs/index.npz").write_bytes(b"PK nothing")
    with pytest.raises(Damaged, match=r"index\.npz: is not a readable index"):
        Corpus.open(tmp_path / "docs")
    manifest = tmp_path / "docs/manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(UserError, match="version 9, this code reads 1"):
        Corpus.open(tmp_path / "docs")


def test_an_unfinished_folder_is_no_corpus(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path / "docs", "docs", template="plain") as writer:
            writer.add(documents("docs", 1)[0], Counts(4, 4, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(UserError, match="is not a prepared corpus"):
        Corpus.open(tmp_path / "docs")


@pytest.mark.parametrize(
    "key", ["docs/1/000001x", "docs/000001", "Docs/a/000001", "docs/../000001x", "d/a b/000001"]
)
def test_malformed_keys(key: str) -> None:
    with pytest.raises(ValueError, match="is not a sample key"):
        make_sample(key, "caption", [Text("a")], [])


def test_every_image_has_one_place() -> None:
    for parts in ([Text("a")], [Image(0), Image(0)], [Image(1)]):
        with pytest.raises(ValueError, match="1 images, but parts refer to"):
            make_sample("d/a/000001", "caption", parts, [b"x"])


def test_digests_tell_parts_and_images_apart() -> None:
    made = [
        make_sample("d/a/000001", "caption", parts, images).digest
        for parts, images in (
            ([Image(0), Text("a")], [b"xy"]),
            ([Image(0), Text("b")], [b"xy"]),
            ([Text("a"), Image(0)], [b"xy"]),
            ([Image(0), Text("a", "user")], [b"xy"]),
            ([Image(0), Text("a"), Image(1)], [b"x", b"y"]),
            ([Image(0), Text("a"), Image(1)], [b"xy", b""]),
        )
    ]
    assert len(set(made)) == len(made)


def test_many_shards_keep_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vila_core.data.corpus._OPEN_SHARDS", 3)
    made = documents("docs", 30)
    corpus = write_corpus(tmp_path, "docs", made, shard_samples=2)
    order = np.random.default_rng(0).integers(30, size=200).tolist()
    assert [corpus.read(n) for n in order] == [made[n] for n in order]
    assert len(corpus._files._open) == 3
