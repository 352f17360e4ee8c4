from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.make import IMAGE_ID, captions, picture, pixels, write_images, write_lines
from vila_core.config import validate
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.loader import PackLoader
from vila_core.data.tokenizer import load_tokenizer
from vila_core.errors import UserError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import prepare

SMALL = {
    "captions": 40,
    "documents": 40,
    "conversations": 40,
    "instructions": 40,
    "eval_items": 3,
    "eval_digits": 10,
}


def config(**values: Any) -> prepare.Config:
    return validate(prepare.Config, values, where="test.yaml", path="prepare")


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        self.done.append((done, total, unit))

    def metrics(self, step: int, values: Any) -> None:
        raise AssertionError("prepare has no steps")

    def info(self, text: str) -> None:
        self.lines.append(text)

    def attach(self, path: Path, name: str) -> None:
        raise AssertionError("this stage keeps no files beside its log")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    told = Told()
    result = prepare.run(config(miniature=SMALL), {}, folder, told)
    assert result.outputs == {"data": folder / "data"}
    assert result.metrics["samples"] == 160
    assert result.metrics["set_aside"] == 0
    assert told.done[-1] == (4, 4, "corpora")
    assert "coyo: 40 samples, 0 set aside" in told.lines
    return folder


def test_the_miniature_world_is_prepared_whole(miniature: Path) -> None:
    data = miniature / "data"
    assert [path.name for path in miniature.iterdir()] == ["data"]  # raw is gone
    names = ["coyo", "flan", "llava", "mmc4"]
    assert sorted(path.name for path in (data / "corpora").iterdir()) == names
    kinds = {}
    for name in names:
        corpus = Corpus.open(data / "corpora" / name)
        assert (corpus.name, corpus.template, len(corpus)) == (name, "miniature", 40)
        kinds[name] = {corpus.read(n).kind for n in range(40)}
    assert kinds == {
        "coyo": {"caption"},
        "flan": {"text-only"},
        "llava": {"conversation"},
        "mmc4": {"interleaved"},
    }
    assert (data / "eval/miniature_vqa/items.jsonl").is_file()
    assert json.loads((data / "report.json").read_text())["corpora"]["coyo"]["kept"] == 40
    assert (data / "set_aside.jsonl").read_text() == ""


def test_the_miniature_world_reads_as_the_base_model_knows_it(miniature: Path) -> None:
    """No word is unknown, and the frame of questions and answers is the one of the text tasks."""
    text = Encoder(load_tokenizer(miniature / "data/tokenizer"), "miniature", IMAGE_ID, 2)
    unknown = text.tokenizer.unk_token_id
    for name in ("coyo", "mmc4", "llava", "flan"):
        corpus = Corpus.open(miniature / "data/corpora" / name)
        for number in range(len(corpus)):
            encoded = text.encode(corpus.read(number))
            assert unknown not in encoded.input_ids
            words = text.tokenizer.decode(encoded.input_ids).split()
            if name in ("llava", "flan"):
                assert words[-1] == "."
                assert words.count("q") == words.count("a")


def test_prepared_data_trains(miniature: Path) -> None:
    data = miniature / "data"
    text = Encoder(load_tokenizer(data / "tokenizer"), "miniature", IMAGE_ID, 4)
    corpora = {path.name: Corpus.open(path) for path in sorted((data / "corpora").iterdir())}
    weights = dict.fromkeys(corpora, 1.0)
    source = PackLoader(
        corpora, weights, text, pixels, pack_tokens=256, pack_images=64, packs_per_step=2
    )
    batches, state = next(source.steps(source.initial_state()))
    assert all(batch.supervised > 50 for batch in batches)
    assert state["plan"]["packs"] == 2


def test_the_same_config_gives_the_same_bytes(miniature: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rest").write_text("of an attempt that was killed")
    (tmp_path / "raw").mkdir()
    prepare.run(config(miniature=SMALL, keep_raw=True), {}, tmp_path)
    found = tree(tmp_path / "data")
    raw = {name for name in found if name.startswith("raw/")}
    assert {"raw/mmc4/docs_shard_0.jsonl", "raw/coyo/part-00000.parquet"} <= raw
    assert {name: found[name] for name in found.keys() - raw} == tree(miniature / "data")


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, Any]:
    """A real-style setting: FLAN lines and LLaVA conversations, some of them broken."""
    write_tokenizer(tmp_path / "lm")
    flan = [{"inputs": "q 1 plus 1", "targets": "2"} for _ in range(96)]
    write_lines(
        tmp_path / "flan/a.jsonl", [*flan, "{broken", {"inputs": "", "targets": "b"}, "[", "]"]
    )
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "red"}]
    good = [{"image": f"{n}.png", "conversations": turns} for n in range(20)]
    write_images(tmp_path / "pictures", {f"{n}.png": picture((n, 0, 0)) for n in range(20)})
    (tmp_path / "chat.json").write_text(json.dumps(good))
    return {
        "source": "corpora",
        "tokenizer": str(tmp_path / "lm"),
        "dedupe": {"exact": False, "near": False, "decontaminate": "off"},
        "corpora": [
            {"name": "flan", "format": "flan", "path": str(tmp_path / "flan"), "template": "plain"},
            {
                "name": "llava",
                "format": "llava",
                "path": str(tmp_path / "chat.json"),
                "images": str(tmp_path / "pictures"),
                "template": "miniature",
            },
        ],
    }


def test_corpora_with_some_broken_samples(corpora: dict[str, Any], tmp_path: Path) -> None:
    result = prepare.run(config(**corpora), {}, tmp_path / "out")
    assert result.metrics["samples"] == 116
    assert result.metrics["set_aside"] == 4
    data = result.outputs["data"]
    flan = json.loads((data / "report.json").read_text())["corpora"]["flan"]
    assert (flan["read"], flan["kept"]) == (100, 96)
    assert flan["set_aside"] == {"broken JSON": 3, "empty text": 1}
    assert flan["examples"]["empty text"] == [{"where": "a.jsonl:98", "detail": "'inputs'"}]
    rows = [json.loads(line) for line in (data / "set_aside.jsonl").read_text().splitlines()]
    assert [row["where"] for row in rows] == [f"a.jsonl:{n}" for n in (97, 98, 99, 100)]
    assert Corpus.open(data / "corpora/flan").manifest["template"] == "plain"
    assert str(tmp_path) not in "".join(p.read_text() for p in data.glob("*.json*"))


def test_too_many_broken_samples_stop_the_stage(corpora: dict[str, Any], tmp_path: Path) -> None:
    corpora["max_set_aside"] = 0.03
    with pytest.raises(UserError) as caught:
        prepare.run(config(**corpora), {}, tmp_path / "out")
    listed = tmp_path / "out/data/set_aside.jsonl"
    assert str(caught.value).splitlines() == [
        f"corpus 'flan' ({tmp_path / 'flan'}): 4 of 100 records (4.0%) are broken, more than "
        "max_set_aside (3.0%).",
        "  broken JSON: 3, first a.jsonl:97: Expecting property name enclosed in double quotes "
        "(column 2)",
        "  empty text: 1, first a.jsonl:98: 'inputs'",
        f"  fix: repair the records (all are listed in {listed}), or raise max_set_aside in the "
        "prepare section",
    ]
    assert len(listed.read_text().splitlines()) == 4
    corpora["corpora"][0]["max_set_aside"] = 0.04
    assert prepare.run(config(**corpora), {}, tmp_path / "out").metrics["samples"] == 116


def test_a_corpus_of_which_nothing_is_left(corpora: dict[str, Any], tmp_path: Path) -> None:
    write_lines(tmp_path / "flan/a.jsonl", [])
    with pytest.raises(UserError, match=r"corpus 'flan' \(.*\): not one sample is left"):
        prepare.run(config(**corpora), {}, tmp_path / "out")


def test_limits_set_aside_but_do_not_stop(corpora: dict[str, Any], tmp_path: Path) -> None:
    limits = {"max_tokens": 20, "tokens_per_image": 30}
    corpora["corpora"] = corpora["corpora"][:1]
    result = prepare.run(config(**corpora, limits=limits), {}, tmp_path / "out")
    assert result.metrics["samples"] == 96
    limits["max_tokens"] = 3
    with pytest.raises(
        UserError, match=r"not one sample is left.\n  over the limits: 96, first flan"
    ):
        prepare.run(config(**corpora, limits=limits), {}, tmp_path / "out")


def test_limits_count_images(corpora: dict[str, Any], tmp_path: Path) -> None:
    corpora["corpora"] = corpora["corpora"][1:]
    path = tmp_path / "chat.json"
    items = json.loads(path.read_text())
    items[3]["image"] = ["1.png", "2.png"]
    items[3]["conversations"] = [
        {"from": "human", "value": "<image> q <image>"},
        {"from": "gpt", "value": "red"},
    ]
    path.write_text(json.dumps(items))
    for limits in ({"max_images": 1}, {"max_tokens": 40, "tokens_per_image": 30}):
        result = prepare.run(config(**corpora, limits=limits), {}, tmp_path / "out")
        assert (result.metrics["samples"], result.metrics["set_aside"]) == (19, 1)
        row = json.loads((result.outputs["data"] / "set_aside.jsonl").read_text())
        assert (row["where"], row["reason"]) == ("llava/chat/000003", "over the limits")


def test_evaluation_sets_are_copied_or_refused(corpora: dict[str, Any], tmp_path: Path) -> None:
    corpora["eval"] = str(tmp_path / "evals")
    with pytest.raises(UserError, match="evals: holds no evaluation sets"):
        prepare.run(config(**corpora), {}, tmp_path / "out")
    write_lines(tmp_path / "evals/vqa/items.jsonl", [{}])
    with pytest.raises(
        UserError, match=r"evals/vqa: is not an evaluation set: task\.json is missing"
    ):
        prepare.run(config(**corpora), {}, tmp_path / "out")
    (tmp_path / "evals/vqa/task.json").write_text("{}")
    data = prepare.run(config(**corpora), {}, tmp_path / "out").outputs["data"]
    assert (data / "eval/vqa/items.jsonl").read_text() == "{}\n"


def test_a_folder_without_a_tokenizer(corpora: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        prepare.run(config(**{**corpora, "tokenizer": str(tmp_path)}), {}, tmp_path / "out")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizer can't be loaded"):
        prepare.run(config(**{**corpora, "tokenizer": str(tmp_path)}), {}, tmp_path / "out")


CORPUS = {"name": "a", "format": "mmc4", "path": "x"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"source": "corpora"},
            "source: corpora needs at least one entry in corpora, and tokenizer",
        ),
        ({"corpora": [CORPUS]}, "corpora, tokenizer and eval go with source: corpora"),
        (
            {"corpora": [{**CORPUS, "format": "mm4"}]},
            "prepare.corpora.0.format: 'mm4' is not valid",
        ),
        ({"corpora": [{**CORPUS, "name": "A b"}]}, "prepare.corpora.0.name: 'A b' is not valid"),
        (
            {"corpora": [{**CORPUS, "template": "vicuna"}]},
            "prepare.corpora.0.template: 'vicuna' is not",
        ),
        (
            {"corpora": [{**CORPUS, "options": {"max_image": 3}}]},
            "options.max_image is not an option: did you mean 'max_images'? format 'mmc4' has",
        ),
        ({"corpora": [{**CORPUS, "options": {"max_images": 0}}]}, "greater than or equal to 1"),
        (
            {"corpora": [{**CORPUS, "format": "prepared", "options": {"x": 0}}]},
            "format 'prepared' has none",
        ),
        (
            {"source": "corpora", "corpora": [CORPUS, CORPUS], "tokenizer": "t"},
            "two corpora are named 'a'",
        ),
        ({"minature": {}}, "prepare.minature: unknown key; did you mean 'miniature'?"),
        ({"max_set_aside": 2}, "prepare.max_set_aside: 2 is not valid"),
    ],
)
def test_config_mistakes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        config(**values)
    assert message in str(caught.value)
    assert str(caught.value).startswith("test.yaml: prepare")


def test_the_config_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "tokenizers", "numpy", "PIL", "pyarrow", "sklearn")
    code = f"import sys, vila_core.stages.prepare; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_captions_of_another_name_are_no_corpus_of_this_name(tmp_path: Path) -> None:
    from vila_core.data.encode import Counts
    from vila_core.data.shards import ShardWriter

    with ShardWriter(tmp_path / "a", "a", template="plain") as writer:
        with pytest.raises(ValueError, match="is not a sample of 'a'"):
            writer.add(captions("coyo", 1)[0], Counts(1, 1, 1))
        writer.finish()
