"""MMLU, BBH and DROP in their official formats, asked of tiny models through the harness."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.data.make import byte_level_chat
from tests.eval.test_generate import spread
from tests.eval.tiny import write_tiny_vila
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.eval.answerer import Answer
from vila_core.eval.prompts import Prompt
from vila_core.stages import text_benchmark

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain language model that reads any text."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = byte_level_chat()
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(
        **shape,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    made = LlamaForCausalLM(config)
    spread(made)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_mmlu(folder: Path, subjects: Sequence[str] = ("anatomy", "virology")) -> Path:
    """Write subjects as in data.tar."""
    for subject in subjects:
        for split, count in (("test", 6), ("dev", 5)):
            path = folder / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                for n in range(count):
                    question = f'Which, "{n}"\nof {subject}?'
                    csv.writer(file).writerow([question, "w", "x", "y", n, "ABCD"[n % 4]])
    return folder


def write_bbh(folder: Path) -> Path:
    (folder / "bbh").mkdir(parents=True)
    examples = [
        {"input": f"Turn {n} times.\nOptions:\n- Yes\n- No", "target": "No"} for n in (1, 2)
    ]
    content = {"canary": "…", "examples": examples}
    (folder / "bbh" / "navigate.json").write_text(json.dumps(content))
    return folder


def answer(**values: Any) -> dict[str, Any]:
    empty = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    return empty | values


def write_drop(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        pairs = [
            {
                "query_id": f"{split}-{n}",
                "question": f"How many are {n}?",
                "answer": answer(number=str(n)),
                "validated_answers": [answer(spans=["two men", "a dog"])],
            }
            for n in range(4)
        ]
        passage = {"passage": "Two men met.", "qa_pairs": pairs, "wiki_url": ""}
        (folder / f"drop_dataset_{split}.json").write_text(json.dumps({"history_1": passage}))
    return folder


def run(out: Path, data: Path, name: str, **settings: Any) -> dict[str, Any]:
    values = {"benchmark": name, "data": str(data), **settings}
    config = validate(text_benchmark.Config, values, where="test")
    result = text_benchmark.run(config, {}, out)
    folder = result.outputs["results"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"] == result.metrics
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {"summary": summary, "records": [json.loads(line) for line in lines], **result.metrics}


def test_mmlu(tmp_path: Path, model: Path) -> None:
    data = write_mmlu(tmp_path / "mmlu")
    subjects = ["anatomy", "virology"]
    found = run(tmp_path / "out", data, "mmlu", model=str(model), subjects=subjects, shots=[0, 5])
    records = found["records"]
    assert [record["key"] for record in records[:7]] == [
        *(f"anatomy/{n}" for n in range(6)),
        "virology/0",
    ]
    assert [record["references"] for record in records[:5]] == [["A"], ["B"], ["C"], ["D"], ["A"]]
    of_five = [record for record in records if record["shots"] == 5]
    right = [record["answer"] == record["references"][0] for record in of_five]
    assert found["mmlu/accuracy@5"] == sum(right) / 12
    assert found["mmlu/accuracy/virology@5"] == sum(right[6:]) / 6
    for record in records:
        nats = {letter: record["detail"][f"nats/{letter}"] for letter in "ABCD"}
        assert record["answer"] == max(nats, key=lambda letter: nats[letter])
    assert found["summary"]["questions"] == {"asked": 12, "in_split": 12}
    assert set(found["summary"]["files"]) == {
        f"{split}/{subject}_{split}.csv" for split in ("dev", "test") for subject in subjects
    }


def test_likelihoods_are_those_of_the_model(tmp_path: Path, model: Path) -> None:
    """The prompt is rebuilt here by MMLU's own rules, and scored by transformers."""
    data = write_mmlu(tmp_path / "mmlu")
    found = run(tmp_path / "out", data, "mmlu", model=str(model), subjects=["anatomy"], limit=1)
    tokenizer, plain = byte_level_chat(), LlamaForCausalLM.from_pretrained(str(model))
    block = 'Which, "{}"\nof anatomy?\nA. w\nB. x\nC. y\nD. {}\nAnswer:'
    demos = "".join(f"{block.format(n, n)} {'ABCDA'[n]}\n\n" for n in range(5))
    lead = "The following are multiple choice questions (with answers) about anatomy.\n\n"
    prompt = lead + demos + block.format(0, 0)
    assert found["records"][0]["prompt_digest"] == Prompt(prompt, ()).digest()
    for letter in "ABCD":
        ids = torch.tensor([tokenizer(f"{prompt} {letter}")["input_ids"]])
        start = len(tokenizer(prompt)["input_ids"])
        with torch.inference_mode():
            nats = plain(ids).logits[0, start - 1 : -1].log_softmax(-1)
        expected = nats.gather(1, ids[0, start:, None]).sum().item()
        assert found["records"][0]["detail"][f"nats/{letter}"] == pytest.approx(expected, abs=1e-4)


def test_the_hubs_parquet_is_read_alike(tmp_path: Path, model: Path) -> None:
    tar, hub = write_mmlu(tmp_path / "tar", ["anatomy"]), tmp_path / "hub"
    for split in ("test", "dev"):
        with (tar / split / f"anatomy_{split}.csv").open(newline="") as file:
            rows = [
                {"question": q, "choices": choices, "answer": "ABCD".index(letter)}
                for q, *choices, letter in csv.reader(file)
            ]
        path = hub / "anatomy" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    settings = {"model": str(model), "subjects": ["anatomy"]}
    first = run(tmp_path / "1", tar, "mmlu", **settings)["records"]
    assert run(tmp_path / "2", hub, "mmlu", **settings)["records"] == first


def test_bbh_and_drop(tmp_path: Path, model: Path) -> None:
    data = write_bbh(tmp_path / "bbh")
    found = run(tmp_path / "1", data, "bbh", model=str(model), subjects=["navigate"])
    assert [record["type"] for record in found["records"]] == ["navigate"] * 2
    assert found["bbh/exact_match@3"] == 0.0
    assert all("\n\n" not in record["answer"] for record in found["records"])
    data = write_drop(tmp_path / "drop")
    found = run(tmp_path / "2", data, "drop", model=str(model), shots=[0, 3], limit=2)
    assert {"drop/f1@0", "drop/exact_match@0", "drop/f1@3", "drop/exact_match@3"} <= set(found)
    assert found["summary"]["questions"] == {"asked": 2, "in_split": 4}
    assert found["summary"]["health"]["answers"] == 4


def test_a_vila_checkpoint_by_its_language_path(tmp_path: Path) -> None:
    vila = str(write_tiny_vila(tmp_path / "vila"))
    data = write_mmlu(tmp_path / "mmlu")
    found = run(tmp_path / "1", data, "mmlu", model=vila, subjects=["anatomy"], shots=[1])
    assert found["summary"]["model"]["kind"] == "vila"
    assert len({record["detail"]["nats/A"] for record in found["records"]}) == 6
    data = write_bbh(tmp_path / "bbh")
    found = run(tmp_path / "2", data, "bbh", model=vila, subjects=["navigate"], shots=[1])
    assert len(found["records"]) == 2


class Scripted:
    """Answers by a rule, to see what is asked and what becomes of an answer."""

    sees = False

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[str] = []

    def describe(self) -> dict[str, str]:
        return {"kind": "scripted"}

    def written(self, prompt: Prompt) -> Prompt:
        return prompt

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: str | None, blind: bool
    ) -> Iterator[list[tuple[int, Answer]]]:
        self.asked += [prompt.text for prompt in prompts]
        yield [(n, Answer(self.text, True)) for n in range(len(prompts))]

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool
    ) -> Iterator[list[tuple[int, list[float]]]]:
        self.asked += [prompt.text for prompt in prompts]
        yield [(n, [-float(len(one)) for one in its]) for n, its in enumerate(choices)]


Script = Callable[[str], Scripted]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Script:
    def install(text: str) -> Scripted:
        made = Scripted(text)
        monkeypatch.setattr(text_benchmark, "open_folder", lambda folder, config: made)
        return made

    return install


def test_scores_are_the_harness_s(tmp_path: Path, scripted: Script) -> None:
    """DROP's official F1 of a bag of words, its demonstrations, and where BBH's answers end."""
    model = scripted("two men")
    data = write_drop(tmp_path / "drop")
    found = run(tmp_path / "1", data, "drop", model=str(tmp_path), limit=1)
    assert found["drop/f1@3"] == 0.5  # one of two spans
    assert found["drop/exact_match@3"] == 0.0
    demos = model.asked[0].split("\n\n")
    assert len(demos) == 4
    assert all(demo[-1] in "0123" for demo in demos[:3])
    model = scripted("No\nQ: more")
    data = write_bbh(tmp_path / "bbh")
    found = run(tmp_path / "2", data, "bbh", model=str(tmp_path), subjects=["navigate"])
    assert found["bbh/exact_match@3"] == 1.0
    assert model.asked[0].count("Q: ") == 4


def test_what_is_answered_is_not_asked_again(tmp_path: Path, scripted: Script) -> None:
    data, subject = write_mmlu(tmp_path / "mmlu"), {"subjects": ["anatomy"]}
    scripted("")
    first = run(tmp_path / "out", data, "mmlu", model=str(tmp_path), **subject)
    again = scripted("")
    assert run(tmp_path / "out", data, "mmlu", model=str(tmp_path), **subject) == first
    assert again.asked == []


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mmlu", {"subjects": ["anatomie"]}, "has no 'anatomie'; did you mean 'anatomy'"),
        ("mmlu", {"subjects": ["astronomy"]}, "annotation file test/astronomy_test.csv or"),
        ("mmlu", {"shots": [6]}, "shots: mmlu has 5 demonstrations, 6 are asked for"),
        ("bbh", {"shots": [4]}, "shots: bbh has 3 demonstrations"),
        ("drop", {"subjects": ["history"]}, "subjects: drop has none"),
        ("drop", {}, "annotation file drop_dataset_dev.json or"),
        ("pope", {}, "text benchmarks are mmlu, bbh, drop"),
        ("mmlu", {"endpoint": {"url": "http://x/v1", "model": "m"}}, "keep one of them"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, settings: dict[str, Any], message: str) -> None:
    data = write_mmlu(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", data, name, model=str(tmp_path), **settings)
    assert not (tmp_path / "out").exists()


def test_damaged_files(tmp_path: Path) -> None:
    data = write_mmlu(tmp_path / "mmlu", ["anatomy"])
    (data / "test" / "anatomy_test.csv").write_text("question,a,b,c,d,E\n")
    with pytest.raises(UserError, match=r"anatomy_test\.csv: row 1: a question, four choices"):
        run(tmp_path / "out", data, "mmlu", model="x", subjects=["anatomy"])
    data = write_bbh(tmp_path / "bbh")
    (data / "bbh" / "navigate.json").write_text('{"examples": [{"input": "x"}]}')
    with pytest.raises(UserError, match=r"navigate\.json: example 1 lacks"):
        run(tmp_path / "out", data, "bbh", model="x", subjects=["navigate"])
    data = write_drop(tmp_path / "drop")
    (data / "drop_dataset_dev.json").write_text('{"p": {"passage": "x", "qa_pairs": [{}]}}')
    with pytest.raises(UserError, match=r"passage p: a question lacks 'query_id'"):
        run(tmp_path / "out", data, "drop", model="x")
