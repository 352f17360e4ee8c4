"""No input, however broken, raises anything but a UserError, gets lost, or makes a bad sample."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import fuzz_corpora
from tests.data.archives import write_tar
from tests.data.fuzz import Fuzz
from tests.data.fuzz_corpora import MAKERS
from tests.data.make import documents, noise, picture, write_corpus
from vila_core.config import validate
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Counts
from vila_core.data.readers import READERS
from vila_core.data.reencode import Reencode, shrunk
from vila_core.data.sample import Sample, SetAside, make_sample
from vila_core.data.shards import pack
from vila_core.errors import UserError
from vila_core.images import check, decode
from vila_core.jsonio import dumps
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare

BATCH = 1000


def check_row(row: Sample | SetAside) -> None:
    if isinstance(row, SetAside):
        assert row.reason
        assert row.group in ("broken", "rule")
        dumps(vars(row)).encode()
        return
    again = make_sample(row.key, row.kind, row.parts, row.images, row.meta)
    assert again == row
    packed = pack(row, Counts(1, 1, len(row.images)))  # meta and text can be written
    assert json.loads(packed.data[packed.start : packed.start + packed.row["json_size"]])
    assert row.meta["source"]
    for image in row.images:
        assert decode(image).mode == "RGB"
        assert decode(image, at_least=4).mode == "RGB"
        assert check(shrunk(image, Reencode(side=16))) == "jpg"


def run(name: str, folder: Path, seed: int, count: int) -> tuple[int, int]:
    """Read a corpus of `count` mutated records; return how many were kept, and set aside."""
    folder.mkdir()
    fuzz = Fuzz(seed)
    form, make = MAKERS[name]
    path, expected = make(folder, fuzz, count)
    rows = list(READERS[form].read(path, corpus="fuzz"))
    assert len(rows) == expected
    for row in rows:
        check_row(row)
    assert len({row.key for row in rows if isinstance(row, Sample)}) == sum(
        isinstance(row, Sample) for row in rows
    )
    kept = sum(isinstance(row, Sample) for row in rows)
    return kept, len(rows) - kept


@pytest.mark.parametrize("name", MAKERS)
def test_some_mutated_records(name: str, tmp_path: Path) -> None:
    kept, set_aside = run(name, tmp_path / "a", 0, 200)
    assert kept > 10
    assert set_aside > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_ten_thousand_mutated_records(name: str, tmp_path: Path) -> None:
    kept = set_aside = 0
    for seed in range(1, 12):
        one, other = run(name, tmp_path / f"{seed}", seed, BATCH)
        kept, set_aside = kept + one, set_aside + other
    assert kept + set_aside >= 10_000
    assert min(kept, set_aside) > 500


def sound_files(folder: Path) -> dict[str, tuple[str, Path]]:
    """A sound corpus per kind of file: the format that reads it, and the file to be damaged."""
    text = b"".join(b'{"text": "%d"}\n' % n for n in range(20))
    (folder / "lines.jsonl").write_bytes(text)
    (folder / "gz.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
    with zipfile.ZipFile(folder / "zip.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a.jsonl"), text)
    (folder / "array.json").write_bytes(b"[" + text.strip().replace(b"\n", b",\n") + b"]")
    pq.write_table(pa.table({"text": [str(n) for n in range(20)]}), folder / "table.parquet")
    members = {
        f"{n}.{s}": (picture() if s == "jpg" else "a") for n in range(5) for s in ("jpg", "txt")
    }
    write_tar(folder / "tar.tar", members)
    write_tar(folder / "wids" / "a.tar", members)
    rows = [{"url": "a.tar", "nsamples": 5, "filesize": (folder / "wids/a.tar").stat().st_size}]
    wids = {"__kind__": "VILA-WebDataset", "wids_version": 1, "shardlist": rows}
    (folder / "wids" / "wids-meta.json").write_text(json.dumps(wids))
    (folder / "zipped").mkdir()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(5):
            archive.writestr(zipfile.ZipInfo(f"{n}.jpg"), noise(n, 16))
    (folder / "zipped" / "images.zip").write_bytes(packed.getvalue())
    pairs = [json.dumps({"id": n, "text": "a"}) for n in range(5)]
    (folder / "zipped" / "pairs.jsonl").write_text("\n".join(pairs))
    write_corpus(folder, "old", documents("old", 4))
    old = folder / "old"
    return {
        "jsonl": ("flan", folder / "lines.jsonl"),
        "jsonl.gz": ("flan", folder / "gz.jsonl.gz"),
        "jsonl.zip": ("flan", folder / "zip.jsonl.zip"),
        "json": ("flan", folder / "array.json"),
        "parquet": ("flan", folder / "table.parquet"),
        "tar": ("webdataset", folder / "tar.tar"),
        "wids-meta.json": ("vila-wds", folder / "wids" / "wids-meta.json"),
        "images.zip": ("coyo", folder / "zipped" / "images.zip"),
        "index.npz": ("prepared", old / "index.npz"),
        "manifest.json": ("prepared", old / "manifest.json"),
    }


KINDS = ("jsonl", "jsonl.gz", "jsonl.zip", "json", "parquet", "tar", "wids-meta.json", "images.zip",
         "index.npz", "manifest.json")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    form, path = sound_files(tmp_path)[kind]
    corpus = path if path.suffix in (".jsonl", ".gz", ".json", ".parquet", ".tar") else path.parent
    if kind == "jsonl.zip":
        corpus = path
    elif kind in ("wids-meta.json", "index.npz", "manifest.json"):
        corpus = path.parent
    data, fuzz = path.read_bytes(), Fuzz(1)
    whole = list(READERS[form].read(corpus, corpus="fuzz"))
    assert all(isinstance(row, Sample) for row in whole)
    read = stopped = 0
    for _ in range(300):
        path.write_bytes(fuzz.damage(data))
        rows, stop = read_or_stop(form, corpus)
        for row in rows:
            check_row(row)
        if stop:
            assert str(path) in stop or str(corpus) in stop
            stopped += 1
            continue
        read += 1
        if kind == "tar":
            assert len(rows) == fuzz_corpora.tar_records(path)
        elif kind == "parquet":
            assert len(rows) == pq.ParquetFile(path).metadata.num_rows
        elif kind == "images.zip":
            assert len(rows) == len(whole)
    assert stopped + read == 300
    assert stopped > 20 or kind in ("jsonl", "images.zip")


def read_or_stop(form: str, corpus: Path) -> tuple[list[Any], str]:
    """Return what a corpus holds, and the message at which reading stopped, if it did."""
    rows: list[Any] = []
    try:
        rows.extend(READERS[form].read(corpus, corpus="fuzz"))
    except UserError as error:
        return rows, str(error)
    return rows, ""


@pytest.mark.parametrize("name", MAKERS)
def test_prepare_takes_what_the_readers_give(name: str, tmp_path: Path) -> None:
    """The whole way: rules, re-encoding, tokens, shards; every record is accounted for."""
    (tmp_path / "raw").mkdir()
    form, make = MAKERS[name]
    path, expected = make(tmp_path / "raw", Fuzz(99), 300)
    write_tokenizer(tmp_path / "lm")
    corpus: dict[str, Any] = {"name": "fuzz", "format": form, "path": str(path)}
    corpus.update(template="plain", reencode={"side": 16}, rules={"min_words": 2})
    values = {"source": "corpora", "tokenizer": str(tmp_path / "lm"), "max_set_aside": 1}
    config = validate(
        prepare.Config, {**values, "corpora": [corpus]}, where="test.yaml", path="prepare"
    )
    prepare.run(config, {}, tmp_path / "out")
    report = json.loads((tmp_path / "out/data/report.json").read_text())["corpora"]["fuzz"]
    assert report["read"] == expected
    assert report["kept"] + sum(report["set_aside"].values()) == expected
    corpus_out = Corpus.open(tmp_path / "out/data/corpora/fuzz")
    assert len(corpus_out) == report["kept"] > 10
    for number in range(len(corpus_out)):
        assert corpus_out.read(number).meta["source"]
