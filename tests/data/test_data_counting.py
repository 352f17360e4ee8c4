"""Counts of a prepared corpus by other tokenizers and templates than those it was prepared with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from tests.data.make import (
    IMAGE_ID,
    build_tokenizer,
    byte_level_chat,
    byte_tokenizer,
    metaspace_chat,
    metaspace_tokenizer,
    picture,
    pixels,
    write_images,
)
from tests.data.test_data_prepare import config, tree
from vila_core.data import counting, pool
from vila_core.data.corpus import Corpus
from vila_core.data.counting import CountWork, count_again
from vila_core.data.encode import Encoder
from vila_core.data.loader import PackLoader
from vila_core.data.token_counts import Counted
from vila_core.data.tokenizer import load_tokenizer
from vila_core.errors import Damaged, UserError
from vila_core.model.processor import load_tokenizer as load_model_tokenizer
from vila_core.stages import prepare
from vila_core.stages._counts import counted_corpora
from vila_ops.cli.main import app


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 conversations on a picture, and three tokenizers."""
    folder = tmp_path_factory.mktemp("raw")
    write_images(folder / "images", {f"{n}.png": picture((n, 9, 0)) for n in range(60)})
    rows = [
        {
            "id": str(n),
            "image": f"{n}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nwhat is red ? {'I think ' * (n % 4)}"},
                {"from": "gpt", "value": f"a red circle {'of them ' * (n % 3)}"},
            ],
        }
        for n in range(60)
    ]
    (folder / "llava.json").write_text(json.dumps(rows))
    build_tokenizer().save_pretrained(folder / "words")
    metaspace_tokenizer().save_pretrained(folder / "pieces")
    byte_level_chat().save_pretrained(folder / "chat")
    return folder


def prepared(raw: Path, to: Path, tokenizer: str = "words", template: str = "vicuna_v1") -> Path:
    row = {"name": "llava", "format": "llava", "path": str(raw / "llava.json")}
    corpora = [{**row, "template": template, "images": str(raw / "images")}]
    values = {"source": "corpora", "tokenizer": str(raw / tokenizer), "corpora": corpora}
    prepare.run(config(**values, shard_samples=16, dedupe={"near": False}), {}, to)
    return to / "data/corpora/llava"


def encoder(folder: Path, template: str = "vicuna_v1") -> Encoder:
    """As a training makes it, with the model's own tokenizer."""
    return Encoder(load_model_tokenizer(folder, vocabulary=1000), template, IMAGE_ID, 4)


@pytest.mark.parametrize(
    ("tokenizer", "template"), [("pieces", "vicuna_v1"), ("words", "plain"), ("chat", "tokenizer")]
)
def test_counts_are_those_that_prepare_would_have_made(
    raw: Path, tmp_path: Path, tokenizer: str, template: str
) -> None:
    folder = prepared(raw, tmp_path / "a")
    before = tree(folder)
    found = count_again(CountWork(folder, raw / tokenizer, template), workers=1)
    assert found is not None
    assert found.samples == 60
    after = tree(folder)
    assert {name: after[name] for name in before} == before
    wanted = Counted.by(encoder(raw / tokenizer, template))
    assert set(after) - set(before) == {wanted.arrays, wanted.facts}
    counted = Corpus.open(folder).counted_by(wanted)
    anew = Corpus.open(prepared(raw, tmp_path / "b", tokenizer, template))
    assert counted is not None
    assert counted.template == anew.template
    for column in ("num_text_tokens", "num_supervised"):
        ours, theirs = getattr(counted.index, column), getattr(anew.index, column)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert found.text_tokens == anew.manifest["text_tokens"]
    assert found.supervised == anew.manifest["supervised"]
    assert counted.digest != Corpus.open(folder).digest  # a plan of the one isn't the other's


def test_bytes_do_not_depend_on_the_number_of_processes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "_CHUNK", 7)
    folder = prepared(raw, tmp_path)
    work = CountWork(folder, raw / "pieces", "vicuna_v1")
    told: list[tuple[int, int]] = []
    count_again(work, workers=1, told=lambda done, of: told.append((done, of)))
    assert told[0] == (7, 60)
    assert told[-1] == (60, 60)
    alone = tree(folder)
    monkeypatch.setattr(pool, "_ALONE_SECONDS", 0.0)
    count_again(work, workers=2)
    assert tree(folder) == alone


def test_training_takes_the_counts_of_its_tokenizer(raw: Path, tmp_path: Path) -> None:
    corpora = {"llava": Corpus.open(prepared(raw, tmp_path))}
    same = counted_corpora(corpora, encoder(raw / "words"), {})
    assert same["llava"] is corpora["llava"]
    other = encoder(raw / "pieces")
    with pytest.raises(UserError) as told:
        counted_corpora(corpora, other, {})
    folder = corpora["llava"].folder
    command = f"vila data count {folder} --tokenizer {raw / 'pieces'}"
    assert command in str(told.value)
    run(*command.split()[1:])
    counted = counted_corpora(corpora, other, {})
    loader = PackLoader(
        counted, {"llava": 1.0}, other, pixels, pack_tokens=256, pack_images=8, packs_per_step=2
    )
    batches, _ = next(loader.steps(loader.initial_state()))
    assert len(batches) == 2  # every sample read has the length that the counts say

    with pytest.raises(UserError, match="counted with template 'plain'") as told:
        counted_corpora(corpora, encoder(raw / "words"), {"llava": "plain"})
    command = str(told.value).partition("fix: vila ")[2]
    assert command.endswith("--template plain")
    run(*command.split())
    plain = counted_corpora(corpora, encoder(raw / "words"), {"llava": "plain"})
    assert plain["llava"].template == "plain"


def test_another_chat_template_is_told(raw: Path, tmp_path: Path) -> None:
    corpora = {"llava": Corpus.open(prepared(raw, tmp_path / "a", "chat", "tokenizer"))}
    other = byte_level_chat()
    other.chat_template = str(other.chat_template).replace("<|im_end|>\n", "<|im_end|>\n\n")
    other.save_pretrained(tmp_path / "lm")
    with pytest.raises(UserError, match="counted with the chat template of the model's tokenizer"):
        counted_corpora(corpora, encoder(tmp_path / "lm", "tokenizer"), {})
    folder = corpora["llava"].folder
    assert count_again(CountWork(folder, tmp_path / "lm", "tokenizer"), workers=1) is not None
    found = counted_corpora(corpora, encoder(tmp_path / "lm", "tokenizer"), {})
    assert int(found["llava"].index.num_text_tokens[0]) > int(
        corpora["llava"].index.num_text_tokens[0]
    )


def test_a_corpus_of_an_earlier_version_is_read_as_before(raw: Path, tmp_path: Path) -> None:
    folder = prepared(raw, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("tokenizer_digest") == encoder(raw / "words").digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    corpora = {"llava": Corpus.open(folder)}
    assert counted_corpora(corpora, encoder(raw / "words"), {}) == corpora
    loader = PackLoader(
        counted_corpora(corpora, encoder(raw / "pieces"), {}),
        {"llava": 1.0},
        encoder(raw / "pieces"),
        pixels,
        pack_tokens=1024,
        pack_images=8,
        packs_per_step=1,
    )
    with pytest.raises(UserError, match="the index counted"):  # nothing names it, packing does
        next(loader.steps(loader.initial_state()))


def test_counts_of_other_shards_are_not_taken(raw: Path, tmp_path: Path) -> None:
    folder = prepared(raw, tmp_path / "a")
    work = CountWork(folder, raw / "pieces", "vicuna_v1")
    assert count_again(work, workers=1) is not None
    wanted = Counted.by(encoder(raw / "pieces"))
    path = folder / wanted.arrays
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(Damaged, match="is not the file that counts-"):
        Corpus.open(folder).counted_by(wanted)
    path.unlink()
    with pytest.raises(Damaged, match="is missing, though"):
        Corpus.open(folder).counted_by(wanted)
    path.write_bytes(data)
    facts = json.loads((folder / wanted.facts).read_text())
    (folder / wanted.facts).write_text(json.dumps({**facts, "index_sha256": "0" * 64}))
    assert Corpus.open(folder).counted_by(wanted) is None
    (folder / wanted.facts).write_text("{")
    with pytest.raises(Damaged, match="is not valid JSON"):
        Corpus.open(folder).counted_by(wanted)
    assert count_again(work, workers=1) is not None  # which mends it
    assert Corpus.open(folder).counted_by(wanted) is not None


TOKENIZERS = (
    build_tokenizer,
    metaspace_tokenizer,
    byte_tokenizer,
    byte_level_chat,
    metaspace_chat,
)


@pytest.mark.parametrize("make", TOKENIZERS)
def test_what_a_model_adds_for_images_makes_no_other_tokenizer(
    make: Callable[[], PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path / "lm")
    first = Encoder(load_tokenizer(tmp_path / "lm"), "plain", IMAGE_ID, 4).digest
    model = load_model_tokenizer(tmp_path / "lm", vocabulary=len(make()) + 3)
    model.save_pretrained(tmp_path / "model")
    saved = load_model_tokenizer(tmp_path / "model")
    assert {Encoder(one, "plain", IMAGE_ID, 4).digest for one in (model, saved)} == {first}
    model.add_tokens(["circle_of_it"])
    assert Encoder(model, "plain", IMAGE_ID, 4).digest != first


def test_different_tokenizers_differ() -> None:
    digests = {Encoder(make(), "plain", IMAGE_ID, 4).digest for make in TOKENIZERS}
    assert len(digests) == len(TOKENIZERS)
    other = build_tokenizer()
    other.eos_token = "red"  # templates write it
    assert Encoder(other, "plain", IMAGE_ID, 4).digest not in digests


def test_the_command_counts_every_corpus_of_a_folder(raw: Path, tmp_path: Path) -> None:
    folder = prepared(raw, tmp_path)
    data = folder.parent.parent
    told = run("data", "count", data, "--tokenizer", raw / "words")
    assert told == "llava (vicuna_v1): its index holds these counts already\n"
    told = run("data", "count", data, "--tokenizer", raw / "pieces")
    assert told.startswith("llava (vicuna_v1): 60 samples, ")
    (found,) = json.loads(run("data", "count", data, "--tokenizer", raw / "pieces", "--json"))
    assert found["samples"] == 60
    assert Path(found["path"]).is_file()


def test_mistakes_are_told(raw: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([tmp_path], "holds no prepared corpus"),
        ([tmp_path, "--template", "vicuna"], "known templates are"),
    ):
        result = CliRunner().invoke(
            app, [str(one) for one in ("data", "count", *arguments, "--tokenizer", raw / "words")]
        )
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    folder = prepared(raw, tmp_path / "artifacts/abc")
    (tmp_path / "artifacts/abc/data/manifest.json").write_text("{}")
    (tmp_path / "artifacts/abc/data").rename(tmp_path / "artifacts/def")
    folder = tmp_path / "artifacts/def/corpora/llava"
    result = CliRunner().invoke(
        app, ["data", "count", str(folder), "--tokenizer", str(raw / "pieces")]
    )
    assert isinstance(result.exception, UserError)
    assert "belongs to a run's artifact" in str(result.exception)
    with pytest.raises(UserError, match=r"prepare\.tokenizer: .*/pieces"):
        counted_corpora({"llava": Corpus.open(folder)}, encoder(raw / "pieces"), {})


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
