"""The supervised-token report of a corpus, and the tokenizer's own template through `prepare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.make import (
    CHATML_JINJA,
    byte_level_chat,
    picture,
    pixels,
    write_images,
    write_lines,
)
from vila_core.config import validate
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.loader import PackLoader
from vila_core.data.tokenizer import load_tokenizer
from vila_core.errors import UserError
from vila_core.stages import prepare

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
)


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        pass

    def metrics(self, step: int, values: Any) -> None:
        raise AssertionError("prepare has no steps")

    def attach(self, path: Path, name: str) -> None:
        raise AssertionError("this stage keeps no files beside its log")

    def info(self, text: str) -> None:
        self.lines.append(text)


def turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


def world(folder: Path, template: str = "tokenizer", chat: str | None = CHATML_JINJA) -> Any:
    """Conversations with and without images, one of them too long, one with a system text."""
    byte_level_chat(chat).save_pretrained(folder / "lm")
    seen = [turn("human", "<image>\nwhat?"), turn("gpt", "red")]
    said = [turn("human", "what?"), turn("gpt", "red")]
    long = [turn("human", "what?"), turn("gpt", "red " * 200)]
    strict = [turn("system", "be brief"), *said]
    records = [{"image": f"{n}.png", "conversations": seen} for n in range(3)]
    records += [{"conversations": turns} for turns in (said, long, strict)]
    write_images(folder / "pictures", {f"{n}.png": picture((n, 0, 0)) for n in range(3)})
    (folder / "chat.json").write_text(json.dumps(records))
    values = {
        "source": "corpora",
        "tokenizer": str(folder / "lm"),
        "limits": {"max_tokens": 100},
        "corpora": [
            {
                "name": "llava",
                "format": "llava",
                "path": str(folder / "chat.json"),
                "images": str(folder / "pictures"),
                "template": template,
                "max_set_aside": 0.5,
            }
        ],
    }
    return validate(prepare.Config, values, where="test.yaml", path="prepare")


def test_the_report_counts_per_kind_and_names_what_was_set_aside(tmp_path: Path) -> None:
    told = Told()
    result = prepare.run(world(tmp_path), {}, tmp_path / "out", told)
    report = json.loads((result.outputs["data"] / "report.json").read_text())
    found = report["corpora"]["llava"]["supervision"]
    kinds = found["kinds"]
    corpus = Corpus.open(result.outputs["data"] / "corpora/llava")
    encoder = Encoder(load_tokenizer(tmp_path / "lm"), "tokenizer", 0, 1)
    samples = [corpus.read(n) for n in range(len(corpus))]
    for kind, rows in kinds.items():
        counts = [encoder.count(one) for one in samples if one.kind == kind]
        assert rows["samples"] == len(counts)
        assert rows["text_tokens"] == sum(one.text_tokens for one in counts)
        assert rows["supervised"] == sum(one.supervised for one in counts)
        assert rows["supervised_share"] == rows["supervised"] / rows["text_tokens"]
    assert (kinds["conversation"]["samples"], kinds["text-only"]["samples"]) == (3, 2)
    assert (found["over_limit"], found["wholly_masked"]) == (1, 0)
    assert found["examples"] == {"over_limit": ["llava/chat/000004"]}
    assert found["template"] == "tokenizer"
    assert result.metrics["over_limit/llava"] == 1
    assert result.metrics["wholly_masked/llava"] == 0
    assert result.metrics["supervised_share/llava"] == pytest.approx(found["supervised_share"])
    at = next(n for n, line in enumerate(told.lines) if line.startswith("corpus"))
    assert " ".join(told.lines[at].split()) == (
        "corpus kind samples text tokens supervised share wholly masked over limit"
    )
    assert told.lines[at + 1].split()[:3] == ["llava", "conversation", "3"]
    assert told.lines[at + 2].split()[:3] == ["llava", "text-only", "2"]
    assert told.lines[at + 3] == "llava: 1 over limit, set aside: llava/chat/000004"


def test_wholly_masked_samples_are_counted_and_named(tmp_path: Path) -> None:
    """The byte-level tokenizer has no BOS: a document's one token has nothing before it."""
    byte_level_chat().save_pretrained(tmp_path / "lm")
    write_lines(tmp_path / "text.jsonl", [{"text": "x"}, {"text": "a blue square"}, {"text": "y"}])
    values = {
        "source": "corpora",
        "tokenizer": str(tmp_path / "lm"),
        "max_set_aside": 1.0,
        "corpora": [
            {
                "name": "t",
                "format": "flan",
                "path": str(tmp_path / "text.jsonl"),
                "template": "miniature",  # writes no end, which would carry loss
            }
        ],
    }
    told = Told()
    config = validate(prepare.Config, values, where="test.yaml", path="prepare")
    result = prepare.run(config, {}, tmp_path / "out", told)
    assert told.lines[-1] == "t: 2 wholly masked, set aside: t/text/000000, t/text/000002"
    assert result.metrics["wholly_masked/t"] == 2
    rows = (result.outputs["data"] / "set_aside.jsonl").read_text().splitlines()
    assert {json.loads(row)["reason"] for row in rows} == {"nothing to learn"}


def test_what_a_chat_template_refuses_is_set_aside_with_the_reason(tmp_path: Path) -> None:
    result = prepare.run(world(tmp_path, chat=NO_SYSTEM + CHATML_JINJA), {}, tmp_path / "out")
    rows = [
        json.loads(row)
        for row in (result.outputs["data"] / "set_aside.jsonl").read_text().splitlines()
    ]
    assert {row["where"]: row["reason"] for row in rows} == {
        "llava/chat/000004": "over the limits",
        "llava/chat/000005": "chat template",
    }
    assert "System role not supported" in rows[1]["detail"]


def test_a_tokenizer_without_a_chat_template_is_told_before_anything_is_read(
    tmp_path: Path,
) -> None:
    config = world(tmp_path, chat=None)
    (tmp_path / "chat.json").unlink()
    with pytest.raises(UserError, match="corpus 'llava': template: tokenizer: the tokenizer has"):
        prepare.run(config, {}, tmp_path / "out")


def load(data: Path, tokenizer: Any) -> PackLoader:
    corpus = Corpus.open(data / "corpora/llava")
    encoder = Encoder(tokenizer, "plain", 99_999, 3)
    return PackLoader(
        {"llava": corpus},
        {"llava": 1.0},
        encoder,
        pixels,
        pack_tokens=128,
        pack_images=8,
        packs_per_step=1,
    )


def test_training_sees_the_labels_that_were_counted(tmp_path: Path) -> None:
    data = prepare.run(world(tmp_path), {}, tmp_path / "out").outputs["data"]
    loader = load(data, load_tokenizer(data / "tokenizer"))
    batches, state = next(loader.steps(loader.initial_state()))
    counted = loader.realised(state)["llava"]
    assert sum(batch.supervised for batch in batches) == counted["supervised"] > 0
    other = byte_level_chat(CHATML_JINJA.replace("im_end", "eot_id"))
    with pytest.raises(UserError, match="corpus 'llava' was prepared with another chat template"):
        load(data, other)


def test_other_labels_than_those_counted_are_refused(tmp_path: Path) -> None:
    data = prepare.run(world(tmp_path, template="chatml"), {}, tmp_path / "out").outputs["data"]
    corpus = Corpus.open(data / "corpora/llava")
    corpus.index.num_supervised[:] += 1
    loader = PackLoader(
        {"llava": corpus},
        {"llava": 1.0},
        Encoder(load_tokenizer(data / "tokenizer"), "plain", 99_999, 3),
        pixels,
        pack_tokens=128,
        pack_images=8,
        packs_per_step=1,
    )
    with pytest.raises(UserError, match=r"tokens carry loss, but the index counted"):
        next(loader.steps(loader.initial_state()))
