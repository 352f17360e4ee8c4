"""Records of every kind go to other processes, and come back as the same shards."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.archives import pair_members, write_tar
from tests.data.make import captions, picture, write_corpus, write_images, write_lines
from tests.data.test_data_custom import CODE
from tests.data.test_data_prepare import config, tree
from vila_core.data import pool
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare

COUNT = 180  # some chunks for the main process, some for each worker


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("corpora")
    write_tokenizer(folder / "lm")
    members: dict[str, bytes | str] = {}
    for n in range(COUNT):
        members |= pair_members(f"{n:09d}", "a red circle", picture((n, 0, 0), form="JPEG"))
    write_tar(folder / "fetched" / "00000.tar", members)
    write_tar(folder / "wids" / "a.tar", members)
    meta = {"__kind__": "VILA-WebDataset", "wids_version": 1, "shardlist": [{"url": "a.tar"}]}
    (folder / "wids" / "wids-meta.json").write_text(json.dumps(meta))
    for n in range(COUNT):
        files = {f"{n}.png": picture((n, 0, 0)), f"{n}.txt": b"a blue square"}
        write_images(folder / "pairs", files)
    (folder / "own.py").write_text(CODE)
    write_lines(folder / "own.jsonl", [{"q": "red"}] * COUNT)
    shown = base64.b64encode(picture()).decode()
    asked = {"instruction": "q ", "inputs": "what", "image_base64_str": [shown], "outputs": "red"}
    write_lines(folder / "m3it.jsonl", [asked] * COUNT)
    write_corpus(folder, "old", captions("old", COUNT))
    paths = {
        "img2dataset": "fetched",
        "webdataset": "fetched",
        "vila-wds": "wids",
        "pairs": "pairs",
        "m3it": "m3it.jsonl",
        "prepared": "old",
        f"{folder / 'own.py'}:READER": "own.jsonl",
    }
    return {
        name: {
            "name": "corpus",
            "format": name,
            "path": str(folder / path),
            "template": "plain",
            "licence": "CC0-1.0",
            "options": {"field": "q"} if "own.py" in name else {},
        }
        for name, path in paths.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", range(7))
def test_workers_change_nothing(
    name: int,
    corpora: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = list(corpora.values())[name]
    setting = {
        "source": "corpora",
        "tokenizer": str(Path(corpus["path"]).parent / "lm"),
        "shard_samples": 50,
        "dedupe": {"exact": False, "near": False, "decontaminate": "off"},  # they are all alike
        "corpora": [corpus],
    }
    prepare.run(config(**setting, workers=1), {}, tmp_path / "one")
    monkeypatch.setattr(pool, "_ALONE_SECONDS", 0.0)
    prepare.run(config(**setting, workers=2), {}, tmp_path / "two")
    assert tree(tmp_path / "one" / "data") == tree(tmp_path / "two" / "data")
    report = json.loads((tmp_path / "one/data/report.json").read_text())["corpora"]["corpus"]
    assert report["kept"] == COUNT
    manifest = json.loads((tmp_path / "one/data/corpora/corpus/manifest.json").read_text())
    assert manifest["licence"] == "CC0-1.0"
