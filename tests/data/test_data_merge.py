"""Parts of a prepare, joined: the bytes of the undivided one, whatever their number."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.make import noise, picture, write_images, write_lines
from tests.data.test_data_engine import Stopped, StopsAt
from tests.data.test_data_prepare import SMALL, config, tree
from tests.data.test_dedupe_evalsets import write_set
from vila_core.errors import Damaged, UserError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import merge, prepare


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Corpora where whether a sample is kept hangs on samples of other files and corpora.

    Five files of documents with duplicates across them, near ones, images of an evaluation set,
    broken records, rules over samples and a takedown; one file of questions, sampled; and a second
    corpus that repeats documents of the first.
    """
    folder = tmp_path_factory.mktemp("corpora")
    write_tokenizer(folder / "lm")
    write_set(folder / "eval")  # asks about the images noise(1) and noise(2)
    images = {f"{n}.png": picture((n % 250, n // 250, 9)) for n in range(40)}
    write_images(folder / "images", {**images, "n1.jpg": noise(1), "n7.jpg": noise(7)})
    documents: list[Any] = []
    for n in range(240):
        name = "n1.jpg" if n % 50 == 3 else "n7.jpg" if n % 50 == 4 else f"{n * 7 % 40}.png"
        texts = [f"red {n % 24}", "Green" if n % 3 else "green  "]
        row = {"image_name": name, "matched_text_index": 0}
        documents.append({"text_list": texts, "image_info": [row] if n % 4 else []})
    documents[9::40] = ["{broken"] * 6
    for number in range(5):
        write_lines(folder / f"mmc4/docs_{number}.jsonl", documents[number * 48 :][:48])
    write_lines(folder / "flan.jsonl", [{"inputs": f"q {n}", "targets": "2"} for n in range(200)])
    more = [{"text_list": [f"only here {n}"], "image_info": []} for n in range(10)]
    write_lines(folder / "more.jsonl", documents[30:60] + more)
    (folder / "keys.txt").write_text("mmc4/docs_2/000001\n")
    common = {"format": "mmc4", "images": str(folder / "images")}
    return {
        "source": "corpora",
        "tokenizer": str(folder / "lm"),
        "eval": str(folder / "eval"),
        "exclude": str(folder / "keys.txt"),
        "shard_samples": 16,
        "max_set_aside": 0.5,
        "workers": 1,
        "dedupe": {"repeated_images": "keep"},
        "corpora": [
            {
                "name": "mmc4",
                "path": str(folder / "mmc4"),
                "licence": "ODC-BY",
                "rules": {"max_samples_per_image": 3},
                **common,
            },
            {
                "name": "flan",
                "format": "flan",
                "path": str(folder / "flan.jsonl"),
                "template": "plain",
                "options": {"sample": 70},
            },
            {"name": "more", "path": str(folder / "more.jsonl"), **common},
        ],
    }


@pytest.fixture(scope="module")
def whole(setting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    prepare.run(config(**setting), {}, folder)
    report = json.loads((folder / "data/report.json").read_text())["corpora"]
    groups = report["mmc4"]["groups"]
    assert min(groups[name] for name in ("duplicate", "contaminated", "rule", "broken")) > 0
    assert report["mmc4"]["set_aside"]["max_samples_per_image"] > 0
    assert report["more"]["groups"]["duplicate"] > 0
    assert report["flan"]["not_sampled"] == 130
    return tree(folder / "data")


def parts(setting: dict[str, Any], to: Path, of: int) -> list[Path]:
    for index in range(of):
        made = config(**setting, partition={"index": index, "of": of})
        result = prepare.run(made, {}, to / str(index))
        assert result.outputs == {"data": to / str(index) / "data"}
    return [to / str(index) / "data" for index in range(of)]


def join(folders: Sequence[Path], to: Path, **more: Any) -> Path:
    inputs = {f"part-{number:05d}": folder for number, folder in enumerate(folders)}
    return merge.run(merge.Config(), inputs, to, **more).outputs["data"]


@pytest.mark.parametrize("of", [1, 2, 3, 5, 8])
def test_the_parts_become_the_bytes_of_the_whole(
    setting: dict[str, Any], whole: dict[str, str], tmp_path: Path, of: int
) -> None:
    folders = parts(setting, tmp_path, of)
    assert tree(join(folders[::-1], tmp_path / "out")) == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


def test_each_part_does_its_share(setting: dict[str, Any], tmp_path: Path) -> None:
    values = [json.loads((p / "part.json").read_text()) for p in parts(setting, tmp_path, 2)]
    records = [
        [value["corpora"][name]["totals"]["records"] for name in ("mmc4", "flan", "more")]
        for value in values
    ]
    assert records == [[144, 38, 32], [96, 32, 8]]  # by file, and what is one file by chunks


def test_a_plain_reader_of_tars_sees_the_samples_of_the_index(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    from vila_core.data.corpus import Corpus

    data = join(parts(setting, tmp_path, 3), tmp_path / "out")
    for name in ("mmc4", "flan", "more"):
        corpus = Corpus.open(data / "corpora" / name)
        keys = []
        for path in sorted(corpus.folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                keys += [n.removesuffix(".json") for n in tar.getnames() if n.endswith(".json")]
        assert keys == [corpus.key(number) for number in range(len(corpus))]
        for number in range(len(corpus)):
            corpus.read(number)


def test_pieces_and_merge_go_on_where_they_were_stopped(
    setting: dict[str, Any], whole: dict[str, str], tmp_path: Path
) -> None:
    part = config(**setting, partition={"index": 0, "of": 2})
    for place in ((0, 40), (0, 110), (1, 20), (2, 1)):
        with pytest.raises(Stopped):
            prepare.run(part, {}, tmp_path / "0", StopsAt(*place))
    pieces = sorted((tmp_path / "0/data/parts/mmc4").glob("*.json"))
    assert len(pieces) > 2
    times = [path.stat().st_mtime_ns for path in pieces]
    folders = parts(setting, tmp_path, 2)
    assert [path.stat().st_mtime_ns for path in pieces] == times  # not done again
    out = tmp_path / "out"
    for place in ((0, 90), (1, 40), (2, 20)):
        with pytest.raises(Stopped):
            join(folders, out, report=StopsAt(*place))
    assert tree(join(folders, out)) == whole


def test_the_miniature_world_in_parts(tmp_path: Path) -> None:
    prepare.run(config(miniature=SMALL), {}, tmp_path / "whole")
    folders = parts({"miniature": SMALL}, tmp_path, 2)
    assert tree(join(folders, tmp_path / "out")) == tree(tmp_path / "whole/data")


def test_only_the_parts_of_one_prepare_are_joined(setting: dict[str, Any], tmp_path: Path) -> None:
    small = {**setting, "corpora": setting["corpora"][1:2]}
    first, second = parts(small, tmp_path / "a", 2)
    other = parts({**small, "shard_samples": 17}, tmp_path / "b", 2)[1]
    third = parts(small, tmp_path / "c", 3)[1]
    for folders, message in (
        ([], "no parts are named"),
        ([first], r"of 2 parts \(0 to 1\), missing: 1\."),
        ([first, first, second], r"twice: 0\."),
        ([first, other], "prepared with other settings: shards"),
        ([first, third], "is one of 3 parts, "),
        ([first, tmp_path], "is not a part: part.json is missing"),
    ):
        with pytest.raises(UserError, match=message):
            join(folders, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["tar", "jsonl", "npz"])
def test_a_part_that_was_changed_is_told(
    setting: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    folders = parts({**setting, "corpora": setting["corpora"][1:2]}, tmp_path, 2)
    path = folders[1] / f"parts/flan/piece-00000.{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=rf"piece-00000\.{suffix}: is not the file that was written"):
        join(folders, tmp_path / "out")
    path.unlink()
    with pytest.raises(Damaged, match="is missing; the part is not whole"):
        join(folders, tmp_path / "out")


def test_too_much_that_is_broken_is_judged_over_all_parts(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    small = {**setting, "corpora": setting["corpora"][:1], "max_set_aside": 0.01}
    folders = parts(small, tmp_path, 2)
    with pytest.raises(UserError, match=r"6 of 240 records \(2\.5%\) are broken"):
        join(folders, tmp_path / "out")


def test_mistakes_in_a_partition_are_told() -> None:
    for values, message in (
        ({"partition": {"index": 2, "of": 2}}, "of 2 parts, the last is 1"),
        ({"partition": {"index": 0, "of": 2}, "keep_raw": True}, "keep_raw and partition"),
    ):
        with pytest.raises(UserError, match=message):
            config(**values)


def test_training_does_not_take_a_part_for_data(setting: dict[str, Any], tmp_path: Path) -> None:
    from vila_core.stages._training import open_corpora

    (folder,) = parts({**setting, "corpora": setting["corpora"][1:2]}, tmp_path, 1)
    with pytest.raises(UserError, match="is one part of a prepare, with duplicates"):
        open_corpora(folder, {"flan": 1.0})
