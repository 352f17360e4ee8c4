"""Raw corpora out of a store: the same bytes as from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.make import picture, write_images, write_lines
from tests.data.test_data_prepare import Told, config, tree
from vila_core.data.raw import bring, state_of
from vila_core.errors import UserError, VilaError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare
from vila_core.store import Store, open_store


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return request.getfixturevalue("s3_store")
    return open_store((tmp_path / "remote").as_uri())


class Counts(Told):
    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        if unit == "files":
            super().progress(done, total, unit, **values)


def local(folder: Path) -> dict[str, Any]:
    write_tokenizer(folder / "lm")
    write_images(folder / "mmc4/images", {f"{n}.png": picture((n, 0, 9)) for n in range(6)})
    rows = [
        {
            "text_list": [f"S{n}"],
            "image_info": [{"image_name": f"{n}.png", "matched_text_index": 0}],
        }
        for n in range(7)
    ]
    write_lines(folder / "mmc4/docs.jsonl", rows)
    write_lines(folder / "flan.jsonl", [{"inputs": f"q {n}", "targets": "2"} for n in range(9)])
    corpora = [
        {"name": "mmc4", "format": "mmc4", "path": str(folder / "mmc4/docs.jsonl")},
        {"name": "flan", "format": "flan", "path": str(folder / "flan.jsonl")},
    ]
    return {
        "source": "corpora",
        "tokenizer": str(folder / "lm"),
        "corpora": corpora,
        "max_set_aside": 0.5,
        "workers": 1,
    }


def uploaded(store: Store, folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    for path in folder.rglob("*"):
        if path.is_file():
            store.upload(path.relative_to(folder).as_posix(), path)
    text = json.dumps(values).replace(str(folder), store.uri)
    return json.loads(text)


def test_from_a_store_or_a_folder_the_bytes_are_the_same(store: Store, tmp_path: Path) -> None:
    values = local(tmp_path / "raw")
    prepare.run(config(**values), {}, tmp_path / "a")
    told = Counts()
    remote = uploaded(store, tmp_path / "raw", values)
    prepare.run(config(**remote), {}, tmp_path / "b", told)
    assert tree(tmp_path / "b/data") == tree(tmp_path / "a/data")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["data"]  # the copies are gone
    assert any("copying" in line for line in told.lines)
    assert (6, 6, "files") in told.done  # the images beside the documents
    report = json.loads((tmp_path / "b/data/report.json").read_text())["corpora"]["mmc4"]
    assert report["set_aside"] == {"missing image": 1}


def test_the_state_follows_the_contents(store: Store) -> None:
    store.write("corpus/a.jsonl", b"1")
    first = state_of(f"{store.uri}/corpus")
    assert state_of(f"{store.uri}/corpus") == first
    store.write("corpus/a.jsonl", b"2")
    assert state_of(f"{store.uri}/corpus") not in (first, "missing")
    assert state_of(f"{store.uri}/corpus/a.jsonl") != "missing"
    assert state_of(f"{store.uri}/nothing") == "missing"


def test_files_that_are_here_are_not_fetched_again(store: Store, tmp_path: Path) -> None:
    store.write("corpus/a", b"1")
    store.write("corpus/deep/b", b"2")
    told: list[tuple[int, int]] = []
    folder = bring(f"{store.uri}/corpus", tmp_path / "here", lambda *some: told.append(some))
    assert (folder / "deep/b").read_bytes() == b"2"
    assert told[-1] == (2, 2)
    (folder / "deep/b").unlink()
    told.clear()
    bring(f"{store.uri}/corpus", tmp_path / "here", lambda *some: told.append(some))
    assert told == [(1, 2), (2, 2)]
    assert bring(f"{store.uri}/corpus/a", tmp_path / "one").read_bytes() == b"1"


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/nothing: there is no such object, and none below it"):
        bring(f"{store.uri}/nothing", tmp_path / "here")


def test_an_unknown_scheme_is_one_message(tmp_path: Path) -> None:
    values = local(tmp_path / "raw")
    values["corpora"][0]["path"] = "ftp://host/mmc4"
    with pytest.raises(VilaError, match="ftp"):
        prepare.run(config(**values), {}, tmp_path / "out")
