"""The engine of `prepare`: the same bytes from any number of workers and after any kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.data.make import noise, picture, write_images, write_lines
from tests.data.test_data_prepare import Told, config, tree
from tests.data.test_dedupe_evalsets import write_set
from vila_core.config import validate
from vila_core.data import pool
from vila_core.data.corpus import Corpus
from vila_core.data.dedupe import EvalItem, recheck
from vila_core.data.reencode import Reencode, shrunk
from vila_core.errors import UserError, VilaError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare
from vila_core.stages.evalsets import eval_items
from vila_core.stages.prepare import CorpusConfig


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """150 documents of up to three images, some twice, 15 broken, and 100 text-only records."""
    folder = tmp_path_factory.mktemp("corpora")
    write_tokenizer(folder / "lm")
    write_images(folder / "mmc4/images", {f"{n}.png": picture((n, 0, 9)) for n in range(90)})
    documents: list[Any] = []
    for n in range(150):
        infos = [
            {"image_name": f"{(n + k) % 90}.png", "matched_text_index": k} for k in range(n % 4)
        ]
        documents.append({"text_list": ["red", "green", "blue"], "image_info": infos})
    documents[9::10] = ["{broken"] * 15
    write_lines(folder / "mmc4/docs_shard_0.jsonl", documents[:70])
    write_lines(folder / "mmc4/docs_shard_1.jsonl", documents[70:])
    flan = [{"inputs": f"q {n} plus 1", "targets": "2"} for n in range(100)]
    write_lines(folder / "flan/a.jsonl", flan)
    return {
        "source": "corpora",
        "tokenizer": str(folder / "lm"),
        "shard_samples": 16,
        "max_set_aside": 0.5,
        "workers": 1,
        "corpora": [
            {"name": "mmc4", "format": "mmc4", "path": str(folder / "mmc4"), "licence": "ODC-BY"},
            {"name": "flan", "format": "flan", "path": str(folder / "flan"), "template": "plain"},
        ],
    }


@pytest.fixture(scope="module")
def whole(setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    prepare.run(config(**setting), {}, folder)
    assert [path.name for path in folder.iterdir()] == ["data"]  # no notes are left
    return tree(folder / "data")


class Stopped(Exception):
    pass


class StopsAt(Told):
    """Stands for a kill: raises when so many records are done."""

    def __init__(self, corpus: int, records: int) -> None:
        super().__init__()
        self._place = (corpus, records)

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        if (done, int(values.get("records", 0))) >= self._place:
            raise Stopped


def test_the_report_accounts_for_every_record(
    setting: dict[str, Any], whole: dict[str, str], tmp_path: Path
) -> None:
    prepare.run(config(**setting), {}, tmp_path)
    report = json.loads((tmp_path / "data/report.json").read_text())["corpora"]
    assert report["mmc4"]["read"] == 150
    assert report["mmc4"]["kept"] == 98
    assert report["mmc4"]["set_aside"] == {"duplicate": 37, "broken JSON": 15}
    assert report["mmc4"]["groups"] == {"broken": 15, "duplicate": 37}
    assert report["mmc4"]["examples"]["duplicate"][0]["detail"].startswith(
        "has the content of mmc4/"
    )
    rows = (tmp_path / "data/set_aside.jsonl").read_text().splitlines()
    rows = [row for row in rows if "broken JSON" in row]
    assert len(rows) == 15
    assert json.loads(rows[0]) == {
        "source": "mmc4",
        "where": "docs_shard_0.jsonl:10",
        "reason": "broken JSON",
        "detail": json.loads(rows[0])["detail"],
        "group": "broken",
    }
    assert tree(tmp_path / "data") == whole


def test_workers_change_nothing(
    setting: dict[str, Any],
    whole: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_ALONE_SECONDS", 0.0)
    prepare.run(config(**{**setting, "workers": 2}), {}, tmp_path)
    assert tree(tmp_path / "data") == whole


@pytest.mark.parametrize(
    ("corpus", "records"), [(0, 0), (0, 32), (0, 64), (0, 134), (1, 32), (1, 100), (2, 0)]
)
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    setting: dict[str, Any], whole: dict[str, str], tmp_path: Path, corpus: int, records: int
) -> None:
    with pytest.raises(Stopped):
        prepare.run(config(**setting), {}, tmp_path, StopsAt(corpus, records))
    told = Told()
    prepare.run(config(**{**setting, "workers": 2}), {}, tmp_path, told)
    assert told.lines[0] == "going on after an interrupted attempt"
    assert tree(tmp_path / "data") == whole


def test_finished_shards_are_not_written_again(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        prepare.run(config(**setting), {}, tmp_path, StopsAt(0, 128))
    folder = tmp_path / "data/corpora/mmc4"
    before = {path.name: path.stat().st_ino for path in sorted(folder.iterdir())}
    times = {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}
    prepare.run(config(**setting), {}, tmp_path)
    *finished, _ = before
    assert len(finished) >= 5
    for name in finished:
        status = (folder / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == (before[name], times[name])


def test_a_torn_set_aside_file_is_cut_back(
    setting: dict[str, Any], whole: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        prepare.run(config(**setting), {}, tmp_path, StopsAt(0, 64))
    with (tmp_path / "journal/mmc4/set_aside.jsonl").open("ab") as file:
        file.write(b'{"source": "mm')
    prepare.run(config(**setting), {}, tmp_path)
    assert tree(tmp_path / "data") == whole


def test_other_settings_start_over(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        prepare.run(config(**setting), {}, tmp_path, StopsAt(1, 32))
    told = Told()
    prepare.run(config(**{**setting, "shard_samples": 50}), {}, tmp_path, told)
    assert "going on after an interrupted attempt" not in told.lines
    assert len(Corpus.open(tmp_path / "data/corpora/mmc4").manifest["shards"]) == 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.test_data_engine import StopsAt, Stopped, config, prepare
import json
class Kill(StopsAt):
    def progress(self, *args, **values):
        try:
            super().progress(*args, **values)
        except Stopped:
            os.kill(os.getpid(), signal.SIGKILL)
prepare.run(config(**json.loads(sys.argv[1])), {}, Path(sys.argv[2]), Kill(0, int(sys.argv[3])))
"""


def test_a_killed_process_loses_nothing(
    setting: dict[str, Any], whole: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, json.dumps(setting), str(tmp_path), "128"]
    root = str(Path(__file__).parents[2])
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    prepare.run(config(**setting), {}, tmp_path)
    assert tree(tmp_path / "data") == whole


def test_a_worker_that_dies_is_told_with_what_it_worked_on(
    setting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ALONE_SECONDS", 0.0)
    monkeypatch.setattr(pool, "_MODULE", "tests.data.dying_worker")
    with pytest.raises(VilaError, match=r"died \(exit code 9\) on the records from docs_shard_0"):
        prepare.run(config(**{**setting, "workers": 2}), {}, tmp_path)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_images(folder / "images", {f"{n}.jpg": noise(n, 200) for n in range(4)})
    (folder / "images/3.jpg").write_bytes(noise(3, 200)[:900])
    rows = [
        {"text_list": ["red"], "image_info": [{"image_name": f"{n}.jpg", "matched_text_index": 0}]}
        for n in range(4)
    ]
    write_lines(folder / "docs.jsonl", rows)
    return folder


def test_images_are_written_at_training_resolution(
    setting: dict[str, Any], photographs: Path, tmp_path: Path
) -> None:
    corpus = {
        "name": "mmc4",
        "format": "mmc4",
        "path": str(photographs / "docs.jsonl"),
        "reencode": {"side": 48},
    }
    prepare.run(config(**{**setting, "corpora": [corpus]}), {}, tmp_path)
    prepared = Corpus.open(tmp_path / "data/corpora/mmc4")
    assert len(prepared) == 3  # the cut one is set aside though its header was sound
    sample = prepared.read(0)
    with Pillow.open(io.BytesIO(sample.images[0])) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (48, 48), "RGB")
    (shard,) = (tmp_path / "data/corpora/mmc4").glob("*.tar")
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 6
    assert prepared.manifest["reencode"] == {"side": 48, "quality": 90}


def test_small_images_are_not_enlarged_and_wide_ones_keep_their_shape() -> None:
    how = Reencode(side=100)
    with Pillow.open(io.BytesIO(shrunk(picture((9, 9, 9), (40, 20)), how))) as image:
        assert image.size == (40, 20)
    with Pillow.open(io.BytesIO(shrunk(picture((200, 9, 9), (400, 200)), how))) as image:
        assert image.size == (200, 100)
        assert np.abs(np.asarray(image).reshape(-1, 3).mean(axis=0) - [200, 9, 9]).max() < 3


def test_what_sampling_leaves_out_is_counted(setting: dict[str, Any], tmp_path: Path) -> None:
    (flan,) = setting["corpora"][1:]
    sampled = {**flan, "options": {"sample": 30}}
    prepare.run(config(**{**setting, "corpora": [sampled]}), {}, tmp_path)
    report = json.loads((tmp_path / "data/report.json").read_text())["corpora"]["flan"]
    assert (report["read"], report["not_sampled"], report["kept"]) == (100, 70, 30)
    again = tmp_path / "again"
    with pytest.raises(Stopped):
        prepare.run(config(**{**setting, "corpora": [sampled]}), {}, again, StopsAt(0, 30))
    prepare.run(config(**{**setting, "corpora": [sampled]}), {}, again)
    assert tree(again / "data") == tree(tmp_path / "data")


def test_excluded_samples_are_left_out_and_counted(setting: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("# a takedown\nflan/a/000003\nflan/a/000050\n")
    values = {**setting, "corpora": setting["corpora"][1:], "exclude": str(tmp_path / "keys.txt")}
    prepare.run(config(**values), {}, tmp_path / "out")
    report = json.loads((tmp_path / "out/data/report.json").read_text())["corpora"]["flan"]
    assert (report["kept"], report["set_aside"]) == (98, {"excluded": 2})
    assert report["groups"] == {"rule": 2}
    corpus = Corpus.open(tmp_path / "out/data/corpora/flan")
    assert corpus.key(3) == "flan/a/000004"  # the others keep their keys
    with pytest.raises(KeyError):
        corpus.find("flan/a/000003")


def test_rules_are_counted_by_name_and_survive_a_restart(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    large, small = picture(size=(40, 40)), picture(size=(16, 16))
    write_images(raw / "images", {"a.png": large, "b.png": small, "c.png": noise(form="PNG")})
    block = [
        [("a.png", 0.3), ("b.png", 0.1)],  # b is left out
        [("b.png", 0.3)],  # too small
        [("a.png", 0.3)],  # the second with a
        [("a.png", 0.3)],  # and the third: too many
        [("c.png", 0.3)],
        [("a.png", 0.1)],  # no image is left
    ]
    documents = [
        {
            "text_list": [f"S{number}"],
            "image_info": [
                {"image_name": name, "matched_text_index": 0, "matched_sim": similarity}
                for name, similarity in images
            ],
        }
        for number, images in enumerate(block * 10)
    ]
    write_lines(raw / "docs.jsonl", documents)
    corpus = {
        "name": "mmc4",
        "format": "mmc4",
        "path": str(raw),
        "options": {"min_similarity": 0.2, "min_images": 1},
        "rules": {"min_side": 30, "max_samples_per_image": 2},
    }
    changed = {**setting, "corpora": [corpus], "shard_samples": 1, "max_set_aside": 0.0}
    prepare.run(config(**changed), {}, tmp_path / "a")
    report = json.loads((tmp_path / "a/data/report.json").read_text())["corpora"]["mmc4"]
    assert (report["read"], report["kept"], report["groups"]) == (60, 4, {"rule": 56})
    assert report["set_aside"] == {"max_samples_per_image": 36, "min_images": 10, "min_side": 10}
    assert report["left_out"] == {"min_similarity": 1}
    assert report["examples"]["min_side"][0] == {
        "where": "docs.jsonl:2",
        "detail": "16 pixels, at least 30",
    }
    assert report["examples"]["max_samples_per_image"][0]["where"] == "mmc4/docs/000003"
    again = tmp_path / "b"
    with pytest.raises(Stopped):
        prepare.run(config(**changed), {}, again, StopsAt(0, 30))
    prepare.run(config(**changed), {}, again)
    assert tree(again / "data") == tree(tmp_path / "a/data")


def test_a_preset_is_named_in_the_recipe(tmp_path: Path) -> None:
    corpus = {"name": "mmc4", "format": "mmc4", "path": "x", "rules": {"preset": "openflamingo"}}
    CorpusConfig.model_validate(corpus)
    for rules, words in (
        ({"preset": "flamingo"}, "'flamingo' is not one of ablation-images-first"),
        ({"min_sid": 3}, "rules.min_sid is not an option: did you mean 'min_side'"),
    ):
        with pytest.raises(UserError, match=words):
            validate(CorpusConfig, {**corpus, "rules": rules}, where="recipe.yaml")


def test_what_stands_in_an_evaluation_set_is_kept_out_of_training(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    write_set(tmp_path / "eval")  # asks about the images noise(1) and noise(2)
    raw = tmp_path / "raw"
    write_images(raw / "images", {f"{n}.jpg": noise(n) for n in range(6)})
    rows = [
        {
            "text_list": [f"S{n}"],
            "image_info": [{"image_name": f"{n}.jpg", "matched_text_index": 0}],
        }
        for n in range(6)
    ]
    write_lines(raw / "docs.jsonl", rows)
    corpora = [
        {"name": "mmc4", "format": "mmc4", "path": str(raw)},
        {"name": "again", "format": "mmc4", "path": str(raw)},
    ]
    values = {**setting, "corpora": corpora, "eval": str(tmp_path / "eval"), "shard_samples": 2}
    values["max_set_aside"] = 0.0
    with pytest.raises(UserError, match=r"corpus 'again' .*: not one sample is left"):
        prepare.run(config(**values), {}, tmp_path / "a")
    flan = setting["corpora"][1]
    values["corpora"] = [corpora[0], flan, {**corpora[0], "name": "more", "path": str(tmp_path)}]
    write_lines(tmp_path / "more.jsonl", [*rows[:4], {"text_list": ["new"], "image_info": []}])
    values["corpora"][2] |= {"path": str(tmp_path / "more.jsonl"), "images": str(raw / "images")}
    prepare.run(config(**values), {}, tmp_path / "b")
    report = json.loads((tmp_path / "b/data/report.json").read_text())["corpora"]
    assert report["mmc4"]["groups"] == {"contaminated": 2}
    (example,) = report["mmc4"]["examples"].values()
    assert example[0]["where"] == "mmc4/docs/000001"
    assert "bench" in example[0]["detail"]
    # What another corpus has is a duplicate, also when that corpus was done before a restart.
    assert report["more"]["groups"] == {"contaminated": 2, "duplicate": 2}
    with pytest.raises(Stopped):
        prepare.run(config(**values), {}, tmp_path / "c", StopsAt(2, 0))
    prepare.run(config(**values), {}, tmp_path / "c")
    assert tree(tmp_path / "c/data") == tree(tmp_path / "b/data")
    # The signatures that were kept suffice to find what a later evaluation set asks.
    folders = [tmp_path / "b/data/corpora" / name for name in ("mmc4", "more")]
    same = recheck(folders, eval_items(tmp_path / "eval"))
    assert (same.samples, same.found) == (5, 0)
    later = recheck(folders, {"later": [EvalItem("later/0", ("red?", "S4"), (noise(4),))]})
    assert [finding.key for finding in later.examples] == ["mmc4/docs/000004"]
