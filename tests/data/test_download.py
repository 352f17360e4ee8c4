"""A download as a whole: its files, its end at any point, asking again, and prepare behind it."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.image_server import Site, running, send
from tests.data.make import noise, picture, write_lines
from tests.data.test_data_prepare import config as prepare_config
from tests.data.test_data_prepare import tree
from vila_core.config import validate
from vila_core.data.corpus import Corpus
from vila_core.data.download import output
from vila_core.data.download.run import Report, download
from vila_core.data.download.settings import DownloadConfig
from vila_core.errors import UserError, VilaError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare

GONE = (7, 19)


@pytest.fixture
def site() -> Iterator[Site]:
    with running() as one:
        for number in range(30):
            name = f"/{number}.png" if number % 3 else f"/{number}.jpg"
            form = "PNG" if number % 3 else "JPEG"
            act = send(status=404) if number in GONE else send(noise(number, 32, form))
            one.put(name, act)
        yield one


def urls(site: Site, count: int = 30) -> list[str]:
    return [f"{site.base}/{n}.png" if n % 3 else f"{site.base}/{n}.jpg" for n in range(count)]


def settings(form: str, path: Path, **values: Any) -> DownloadConfig:
    section = {
        "format": form,
        "path": str(path),
        "allow_private": ["127.0.0.1/32"],
        "backoff_s": 0.05,
        "timeout_s": 2.0,
        "threads": 4,
        **({"shard_rows": 10} if form == "coyo" else {}),
        **values,
    }
    return validate(DownloadConfig, section, where="test")


def coyo(folder: Path, addresses: Sequence[str], files: int = 2) -> Path:
    """Pairs in several files, the scores falling."""
    (folder / "coyo").mkdir(parents=True)
    each = len(addresses) // files
    for number in range(files):
        rows = range(number * each, (number + 1) * each)
        columns = {
            "id": list(rows),
            "url": [addresses[row] for row in rows],
            "text": [f"a red circle {row}" for row in rows],
            "clip_similarity_vitb32": [0.5 - row / 100 for row in rows],
            "clip_similarity_vitl14": [float("nan") if row == 29 else 0.0 for row in rows],
            "width": [9] * each,
            "hashes": [[1, 2]] * each,
        }
        pq.write_table(pa.table(columns), folder / "coyo" / f"part-{number:05d}.parquet")
    return folder / "coyo"


def mmc4(folder: Path, addresses: Sequence[str]) -> Path:
    """Documents of three images each; some lines are broken, some names no names."""
    records: list[Any] = []
    for first in range(0, len(addresses), 3):
        infos = [
            {"image_name": f"{n:04d}.jpg", "raw_url": url, "matched_text_index": 0}
            for n, url in enumerate(addresses[first : first + 3], start=first)
        ]
        records.append({"text_list": ["a red circle"], "image_info": infos, "url": "page"})
    half = len(records) // 2
    twice = {"image_name": "0000.jpg", "raw_url": addresses[0], "matched_text_index": 0}
    odd = [
        {"text_list": ["x"], "image_info": [{"image_name": "../up.jpg", "raw_url": addresses[0]}]},
        {"text_list": ["x"], "image_info": [twice]},
        {"text_list": ["x"], "image_info": [{"image_name": "none.jpg", "raw_url": None}]},
        {"text_list": ["no images"], "image_info": []},
        "{broken",
    ]
    write_lines(folder / "mmc4" / "docs_shard_3_v2.jsonl", [*records[:half], *odd])
    write_lines(folder / "mmc4" / "docs_shard_17_v2.jsonl", records[half:])
    return folder / "mmc4"


def rows_of(out: Path) -> list[dict[str, Any]]:
    tables = sorted(out.rglob("*.parquet"))
    return [row for table in tables for row in pq.ParquetFile(table).read().to_pylist()]


def check_counts(report: Report, out: Path, total: int) -> None:
    rows = rows_of(out)
    assert len(rows) == total == report.addresses
    assert report.images + sum(report.reasons.values()) == total
    assert sum(row["status"] == "success" for row in rows) == report.images
    for reason, count in report.reasons.items():
        assert sum(row["reason"] == reason for row in rows) == count


def test_coyo_is_left_as_img2dataset_leaves_it(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = download(settings("coyo", coyo(tmp_path, urls(site))), out)
    check_counts(report, out, 30)
    assert dict(report.reasons) == {"refused": 2}
    names = sorted(path.name for path in out.iterdir() if path.name[0] != ".")
    shards = [f"0000{n}{end}" for n in range(4) for end in (".parquet", ".tar", "_stats.json")]
    assert names == [*shards, "download.json"]  # 15 rows a file: ten and five, twice
    stats = json.loads((out / "00000_stats.json").read_text())
    assert stats["count"] == 10
    assert stats["status_dict"] == {"success": 9, "refused": 1}
    with tarfile.open(out / "00000.tar") as tar:
        members = tar.getnames()
        about = json.load(tar.extractfile("000000.json"))  # type: ignore[arg-type]
        first = tar.extractfile("000000.jpg").read()  # type: ignore[union-attr]
    assert members[:6] == [
        *("000000.jpg", "000000.json", "000000.txt"),
        *("000001.png", "000001.json", "000001.txt"),
    ]
    assert first == noise(0, 32)
    assert (about["width"], about["original_width"], about["id"]) == (32, 32, 0)
    assert about["clip_similarity_vitb32"] == 0.5
    assert about["url"] == urls(site)[0]
    assert about["hashes"] is None
    assert not list((out / ".downloading").glob("*.*"))


def test_what_was_fetched_of_coyo_is_prepared(site: Site, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "lm")
    report = download(settings("coyo", coyo(tmp_path, urls(site))), tmp_path / "out")
    corpus = {"name": "coyo", "format": "img2dataset", "path": str(tmp_path / "out")}
    found = prepared(tmp_path, corpus)
    assert len(found) == report.images == 28
    sample = found.read(0)
    assert sample.images[0] == noise(0, 32)
    assert sample.meta["url"] == urls(site)[0]
    assert sample.meta["clip_similarity_vitb32"] == 0.5


def prepared(folder: Path, corpus: dict[str, Any]) -> Corpus:
    values = {"source": "corpora", "tokenizer": str(folder / "lm"), "corpora": [corpus]}
    config = prepare_config(**values, workers=1, max_set_aside=0.9)
    data = prepare.run(config, {}, folder / "work").outputs["data"]
    return Corpus.open(data / "corpora" / str(corpus["name"]))


def test_images_of_mmc4_are_found_by_prepare(site: Site, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "lm")
    path, out = mmc4(tmp_path, urls(site)), tmp_path / "out"
    report = download(settings("mmc4", path), out)
    check_counts(report, out, 33)
    assert report.broken_records == 1
    wrong = {"refused": 2, "no image name": 1, "name used twice": 1, "bad address": 1}
    assert dict(report.reasons) == wrong
    assert (out / "docs_shard_3_v2_images" / "0001.jpg").read_bytes() == noise(1, 32, "PNG")
    corpus = {"name": "mmc4", "format": "mmc4", "path": str(path), "images": str(out)}
    found = prepared(tmp_path, corpus)
    # Ten documents less two that lost an image; one shares an image, and one has none.
    assert [len(found.read(n).images) for n in range(len(found))].count(3) == 8
    assert len(found) == 10


def test_files_in_folders_and_zips_keep_their_names(site: Site, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "lm")
    path, out = mmc4(tmp_path, urls(site)), tmp_path / "out"
    for name in ("docs_shard_3_v2.jsonl", "docs_shard_17_v2.jsonl"):
        (path / "faces").mkdir(exist_ok=True)
        with zipfile.ZipFile(path / "faces" / f"{name}.zip", "w") as packed:
            packed.write(path / name, name)
        (path / name).unlink()
    config = settings("mmc4", path)
    report = download(config, out)
    check_counts(report, out, 33)
    assert (out / "faces" / "docs_shard_17_v2_images").is_dir()
    site.asked.clear()
    assert download(config, out) == report
    assert not site.asked  # they are known to be finished
    corpus = {"name": "mmc4", "format": "mmc4", "path": str(path), "images": str(out)}
    assert len(prepared(tmp_path, corpus)) == 10


@pytest.mark.parametrize("form", ["coyo", "mmc4"])
def test_bytes_depend_on_answers_alone(site: Site, tmp_path: Path, form: str) -> None:
    path = (coyo if form == "coyo" else mmc4)(tmp_path, urls(site))
    download(settings(form, path, threads=1), tmp_path / "one")
    download(settings(form, path, threads=16, per_host=16), tmp_path / "many")
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("form", ["coyo", "mmc4"])
@pytest.mark.parametrize("moment", ["begin", "rename", "publish", "counts"])
def test_ended_anywhere_it_goes_on_to_the_same_bytes(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, moment: str
) -> None:
    path = (coyo if form == "coyo" else mmc4)(tmp_path, urls(site))
    config, out = settings(form, path), tmp_path / "out"
    download(config, tmp_path / "whole")
    owner, name = {
        "begin": (Path, "mkdir"),
        "rename": (Path, "rename"),
        "publish": (Path, "replace"),
        "counts": (output, "_counts"),
    }[moment]
    real = getattr(owner, name)

    def dies(first: Any, *arguments: Any, **named: Any) -> Any:
        if owner is output or ".part" in str(first) or ".ready" in str(first):
            raise Killed
        return real(first, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            download(config, out)
    download(config, out)
    assert tree(out) == tree(tmp_path / "whole")


_CHILD = """
import json, sys
from pathlib import Path
from vila_core.config import validate
from vila_core.data.download.run import download
from vila_core.data.download.settings import DownloadConfig
download(validate(DownloadConfig, json.loads(sys.argv[1]), where="test"), Path(sys.argv[2]))
"""


def test_killed_it_asks_only_for_unfinished_shards(site: Site, tmp_path: Path) -> None:
    path, out = coyo(tmp_path, urls(site), files=1), tmp_path / "out"
    for number in range(20, 30):
        name = urls(site)[number].removeprefix(site.base)
        site.acts[name] = [send(noise(number, 32), after=1.0)]
    config = settings("coyo", path, per_host=2)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, config.model_dump_json(), str(out)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not (out / "00001_stats.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "00002_stats.json").exists()
    for number in range(20, 30):
        name = urls(site)[number].removeprefix(site.base)
        site.acts[name] = [send(noise(number, 32))]
    site.asked.clear()
    report = download(config, out)
    check_counts(report, out, 30)
    paths = {asked for _, asked in site.asked} - {"/robots.txt"}
    assert paths == {one.removeprefix(site.base) for one in urls(site)[20:]}


@pytest.mark.parametrize("form", ["coyo", "mmc4"])
def test_asking_again_heals_what_may_heal(site: Site, tmp_path: Path, form: str) -> None:
    path = (coyo if form == "coyo" else mmc4)(tmp_path, urls(site))
    config, out = settings(form, path, retries=0), tmp_path / "out"
    download(config, tmp_path / "whole")
    ill = {"/4.png": send(status=500), "/12.jpg": send(status=503), "/28.png": send(b"x", length=9)}
    sound = {name: site.acts[name] for name in ill}
    for name, act in ill.items():
        site.put(name, act)
    report = download(config, out)
    assert report.may_heal == 3
    check_counts(report, out, report.addresses)
    for name, acts in sound.items():
        site.acts[name] = acts
    site.asked.clear()
    assert download(config, out) == report  # without --retry nothing is asked
    assert not site.asked
    healed = download(config, out, retry=True)
    assert {asked for _, asked in site.asked} - {"/robots.txt"} == set(ill)
    assert healed.may_heal == 0
    assert healed.images == report.images + 3
    assert tree(out) == tree(tmp_path / "whole")  # as if nothing had ever failed
    site.asked.clear()
    assert download(config, out, retry=True) == healed
    assert not site.asked


def test_only_chosen_rows_are_asked_for(site: Site, tmp_path: Path) -> None:
    config = settings("coyo", coyo(tmp_path, urls(site)), options={"top": 12})
    report = download(config, tmp_path / "out")
    check_counts(report, tmp_path / "out", 12)
    asked = {asked for _, asked in site.asked} - {"/robots.txt"}
    assert asked == {one.removeprefix(site.base) for one in urls(site)[:12]}


def test_images_can_be_stored_at_training_size(site: Site, tmp_path: Path) -> None:
    site.put("/0.jpg", send(picture(size=(400, 100), form="JPEG")))
    config = settings("coyo", coyo(tmp_path, urls(site)[:2]), reencode={"side": 50, "quality": 80})
    download(config, tmp_path / "out")
    (row, _) = rows_of(tmp_path / "out")
    assert (row["width"], row["height"]) == (200, 50)
    assert (row["original_width"], row["original_height"]) == (400, 100)
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        data = tar.extractfile("000000.jpg").read()  # type: ignore[union-attr]
    assert Image.open(io.BytesIO(data)).size == (200, 50)


def test_what_does_not_fit_together_is_refused(site: Site, tmp_path: Path) -> None:
    path, out = coyo(tmp_path, urls(site)), tmp_path / "out"
    download(settings("coyo", path), out)
    with pytest.raises(UserError, match="was begun with shard_rows = 10, now it is 5"):
        download(settings("coyo", path, shard_rows=5), out)
    with pytest.raises(UserError, match="lies in the corpus's own folder"):
        download(settings("coyo", path), path / "images")
    with pytest.raises(UserError, match="exists and is no download"):
        download(settings("coyo", path), tmp_path / "coyo" / ".." / "coyo" / "..")
    with pytest.raises(UserError, match="lacks the column 'address'"):
        download(settings("coyo", path, url="address"), tmp_path / "other")
    pq.write_table(pa.table({"url": ["x"], "text": ["y"]}), path / "part-00009.parquet")
    with pytest.raises(UserError, match="the corpus has changed"):
        download(settings("coyo", path), out)


def test_counts_that_do_not_add_up_are_told(site: Site, tmp_path: Path) -> None:
    config, out = settings("coyo", coyo(tmp_path, urls(site))), tmp_path / "out"
    download(config, out)
    stats = out / "00001_stats.json"
    stats.write_text(stats.read_text().replace('"count": 5', '"count": 6'))
    with pytest.raises(VilaError, match="don't add up: 30 rows in the corpus, 31 in the shards"):
        download(config, out)


def test_a_full_disk_ends_it_with_one_message(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = settings("coyo", coyo(tmp_path, urls(site))), tmp_path / "out"

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(output.Part, "put", full)
        with pytest.raises(VilaError, match="can't be written: No space left"):
            download(config, out)
    check_counts(download(config, out), out, 30)


def test_one_process_at_a_time(site: Site, tmp_path: Path) -> None:
    config, out = settings("coyo", coyo(tmp_path, urls(site))), tmp_path / "out"

    def again(task: object) -> None:
        with pytest.raises(UserError, match="another process downloads into it"):
            download(config, out)

    download(config, out, begin=again)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"allow_private": ["10.0.0.1/8"]}, "has host bits set"),
        ({"ca_bundle": "nowhere.pem"}, "there is no such file"),
        ({"contact": "a\r\nCookie: b"}, "in ASCII without brackets"),
        ({"deadline_s": 0.5, "timeout_s": 1}, "at least timeout_s"),
        ({"verify": False}, "unknown key"),
        ({"options": {"topp": 3}}, "did you mean 'top'"),
    ],
)
def test_settings_that_are_none(
    site: Site, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        download(settings("coyo", coyo(tmp_path, urls(site)), **values), tmp_path / "out")
