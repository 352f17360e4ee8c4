"""`vila data prepare` from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.data.make import picture, write_images, write_lines
from vila_core.data.corpus import Corpus
from vila_core.errors import UserError
from vila_core.miniature.words import write_tokenizer
from vila_ops.cli.main import app
from vila_ops.recipes import load_recipe


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Three hundred documents, of which 15 lack their image."""
    write_tokenizer(tmp_path / "lm")
    write_images(tmp_path / "mmc4/images", {f"{n}.png": picture((n, 0, 9)) for n in range(95)})
    rows: list[Any] = [
        {
            "text_list": ["red"],
            "image_info": [{"image_name": f"{n % 100}.png", "matched_text_index": 0}],
        }
        for n in range(300)
    ]
    write_lines(tmp_path / "mmc4/docs.jsonl", rows)
    return write_config(tmp_path)


def write_config(folder: Path, **more: Any) -> Path:
    corpus = {"name": "mmc4", "format": "mmc4", "path": str(folder / "mmc4")}
    section = {"source": "corpora", "tokenizer": str(folder / "lm"), "corpora": [corpus], **more}
    section["dedupe"] = {"exact": False, "near": False, "decontaminate": "off"}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"prepare": {"max_set_aside": 0.1, **section}}))
    return path


def vila(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_corpora_become_a_folder_of_shards(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = vila("data", "prepare", config, "--to", out, "--set", "prepare.shard_samples=100")
    assert "mmc4     300   285         15            0     285" in printed
    assert "mmc4: 15 set aside, missing image; first docs.jsonl:96: 95.png" in printed
    corpus = Corpus.open(out / "corpora/mmc4")
    assert [shard["samples"] for shard in corpus.manifest["shards"]] == [100, 100, 85]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.yaml", "lm", "mmc4", "out"]


def test_json_is_the_report(config: Path, tmp_path: Path) -> None:
    printed = vila("data", "prepare", config, "--to", tmp_path / "out", "--json")
    assert json.loads(printed)["corpora"]["mmc4"]["set_aside"] == {"missing image": 15}


def test_a_folder_that_exists_is_left_alone(config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        vila("data", "prepare", config, "--to", tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "keep"


def test_a_mistake_leaves_nothing_behind(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        vila("data", "prepare", config, "--to", tmp_path / "out", "--set", "prepare.tokenizer=/no")
    assert not list(tmp_path.glob("out*"))


def test_a_config_without_its_section(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("prepare: 7\n")
    with pytest.raises(UserError, match=r"a.yaml: prepare: a mapping .* found 7"):
        vila("data", "prepare", tmp_path / "a.yaml", "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interrupted_it_goes_on(config: Path, tmp_path: Path) -> None:
    rows = [{"text_list": [f"red {n}"], "image_info": []} for n in range(30_000)]
    write_lines(tmp_path / "mmc4/more.jsonl", rows)
    write_config(tmp_path, shard_samples=500, workers=1)
    out, work = tmp_path / "out", tmp_path / "out.preparing"
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "vila_ops.cli.main", "data", "prepare", str(config)]
    process = subprocess.Popen(
        [*command, "--to", str(out)],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        # A shell's background job ignores SIGINT, and so would everything below it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while len(list(work.glob("journal/mmc4/part-*.json"))) < 3:
            assert process.poll() is None, process.stderr
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, printed
    assert not out.exists()
    shards = {path: path.stat().st_ino for path in work.glob("data/corpora/mmc4/*.tar")}
    printed = vila("data", "prepare", config, "--to", out, "--json")
    assert json.loads(printed)["corpora"]["mmc4"]["read"] == 30_300
    first = min(shards, key=lambda path: path.name)
    assert (out / "corpora/mmc4" / first.name).stat().st_ino == shards[first]


def test_the_example_can_be_prepared(tmp_path: Path) -> None:
    out = tmp_path / "my-data"
    assert "mmc4" in vila("data", "example", out, "--samples", 50)
    recipe = load_recipe(str(out / "recipe.yaml"))
    assert recipe.configs["prepare"].model_dump()["source"] == "corpora"
    printed = vila("data", "prepare", out / "recipe.yaml", "--to", tmp_path / "out", "--json")
    report = json.loads(printed)["corpora"]
    assert {name: row["read"] for name, row in report.items()} == dict.fromkeys(
        ("coyo", "flan", "llava", "mmc4"), 50
    )
    assert (tmp_path / "out/eval/miniature_vqa/items.jsonl").is_file()
    with pytest.raises(UserError, match="exists already"):
        vila("data", "example", out)
