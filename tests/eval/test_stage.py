"""The evaluate stage on folders as the pipeline hands them over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from tests.eval.conftest import item, write_task
from tests.eval.test_generate import spread
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.miniature.words import build_tokenizer, write_tokenizer
from vila_core.model import VilaProcessor, build_preset, load_preset, save
from vila_core.stages import evaluate

logging.disable_progress_bar()


class Listener:
    """Remembers what the stage reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        self.done.append((done, total))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        raise AssertionError("the stage's metrics are its result")

    def info(self, text: str) -> None:
        self.lines.append(text)

    def attach(self, path: Path, name: str) -> None:
        raise AssertionError("this stage keeps no files beside its log")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A text task, and a task with images and two demonstrations."""
    sets = tmp_path / "data" / "eval"
    asked = [item(f"ask/{n}", [{"text": f"q {n} plus 1 a"}], str(n + 1)) for n in range(5)]
    write_task(sets / "ask", asked, blind=False)
    names = [f"{n}.png" for n in range(6)]
    (sets / "look").mkdir()
    for n, name in enumerate(names):
        Image.effect_noise((32, 32), 20 + 40 * n).convert("RGB").save(sets / "look" / name)
    cases = [
        {"parts": [{"text": "scene "}, {"image": name}, {"text": " . q a"}], "answer": "red"}
        for name in names
    ]
    looks = [
        item(f"look/{5 - n}", cases[n]["parts"], demos=[cases[n - 1], cases[n - 2]])
        for n in range(6)
    ]
    write_task(sets / "look", looks, shots=[0, 2], metric="bleu")
    return tmp_path / "data"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "language-model"
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=128, num_attention_heads=2))
    spread(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    folder = tmp_path / "vila"
    model = build_preset(load_preset("miniature"))
    spread(model)
    half = (0.5, 0.5, 0.5)
    processor = VilaProcessor(
        build_tokenizer(), image_size=32, tokens_per_image=4, mean=half, std=half
    )
    save(model, processor, folder)
    return folder


def evaluated(
    data: Path, model: Path, out: Path, **config: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    result = evaluate.run(evaluate.Config(**config), {"data": data, "model": model}, out)
    folder = result.outputs["results"]
    assert sorted(path.name for path in folder.iterdir()) == ["records.jsonl", "summary.json"]
    records = [json.loads(line) for line in (folder / "records.jsonl").read_bytes().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    assert result.metrics == summary["metrics"]
    return records, summary


def test_a_seeing_model_has_a_record_per_sample_shots_and_condition(
    data: Path, seeing: Path, tmp_path: Path
) -> None:
    records, summary = evaluated(data, seeing, tmp_path)
    rounds = [(r["task"], r["shots"], r["condition"], r["key"]) for r in records]
    expected = [("ask", 0, "seen", f"ask/{n}") for n in range(5)]
    for shots in (0, 2):
        for condition in ("seen", "blind"):
            expected += [("look", shots, condition, f"look/{n}") for n in range(6)]
    assert rounds == expected
    assert summary["skipped"] == {}
    assert summary["counts"]["look/blind_accuracy@2"] == 6
    assert summary["normalisation"]
    assert "tok:13a" in summary["signatures"]["look/bleu@0"]
    answers = {(r["shots"], r["condition"], r["key"]): r["answer"] for r in records}
    differ = [
        answers[s, "seen", k] != answers[s, "blind", k] for s, c, k in answers if c == "blind"
    ]
    assert any(differ)
    digests = {(r["key"], r["condition"]): r["prompt_digest"] for r in records if r["shots"] == 2}
    assert digests["look/0", "seen"] == digests["look/0", "blind"]
    assert len(set(digests.values())) == 6


def test_results_do_not_depend_on_batches_or_runs(data: Path, seeing: Path, tmp_path: Path) -> None:
    evaluated(data, seeing, tmp_path / "a")
    evaluated(data, seeing, tmp_path / "b", batch_size=1)
    evaluated(data, seeing, tmp_path / "c", batch_size=4, batch_tokens=64)
    evaluated(data, seeing, tmp_path / "c")  # a second attempt in the same folder
    for name in ("records.jsonl", "summary.json"):
        first, *others = ((tmp_path / out / "results" / name).read_bytes() for out in "abc")
        assert others == [first, first]


def test_a_plain_model_is_asked_text_only(data: Path, plain: Path, tmp_path: Path) -> None:
    listener = Listener()
    inputs = {"data": data, "model": plain}
    result = evaluate.run(evaluate.Config(batch_size=2), inputs, tmp_path, listener)
    assert listener.lines == ["look is skipped: the model can't see images"]
    assert listener.done == [(2, 5), (4, 5), (5, 5)]
    assert result.metrics.keys() == {
        f"ask{kind}/{metric}@0" for kind in ("", ".kind") for metric in ("accuracy", "chance")
    }
    records, summary = evaluated(data, plain, tmp_path)
    assert summary["skipped"] == {"look": "the model can't see images"}
    assert result.metrics["ask/accuracy@0"] == sum(r["score"] for r in records) / 5
    _, nothing = evaluated(data, plain, tmp_path, tasks=("look",))
    assert nothing["metrics"] == {}


def test_scores_are_right_where_the_model_is(data: Path, plain: Path, tmp_path: Path) -> None:
    """What the model says first becomes the reference: it then scores one, and its type too."""
    first, _ = evaluated(data, plain, tmp_path / "a", tasks=("ask",))
    said = {record["key"]: record["answer"] for record in first}
    assert len(set(said.values())) > 1
    items = [
        item(f"ask/{n}", [{"text": f"q {n} plus 1 a"}], said[f"ask/{n}"].upper() or "x")
        for n in range(5)
    ]
    write_task(data / "eval" / "ask", items, blind=False)
    _, summary = evaluated(data, plain, tmp_path / "b", tasks=("ask",))
    answered = sum(bool(text) for text in said.values())
    assert summary["metrics"]["ask.kind/accuracy@0"] == answered / 5


def test_shots_and_blind_can_be_set(data: Path, seeing: Path, tmp_path: Path) -> None:
    records, summary = evaluated(data, seeing, tmp_path, shots=(1,), blind=False)
    assert {(r["task"], r["shots"], r["condition"]) for r in records} == {("look", 1, "seen")}
    assert summary["skipped"] == {"ask@1": "its items have 0 demonstrations"}
    with pytest.raises(UserError, match=r"shots: 3 or more are asked for, but .* at most 2"):
        evaluated(data, seeing, tmp_path, shots=(3, 4))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tasks": []}, "tasks"),
        ({"shots": []}, "shots"),
        ({"shots": [-1]}, r"shots\.0"),
        ({"batch": 3}, "batch: unknown key; did you mean 'batch_size'"),
    ],
)
def test_wrong_configs_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(evaluate.Config, config, where="recipe.yaml", path="evaluate")


def test_unknown_task_and_no_task(data: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'aks'.*did you mean 'ask'"):
        evaluated(data, plain, tmp_path, tasks=("aks",))
    with pytest.raises(UserError, match="holds no evaluation task"):
        evaluated(tmp_path / "elsewhere", plain, tmp_path)


def test_a_broken_image_is_named(data: Path, seeing: Path, tmp_path: Path) -> None:
    path = data / "eval" / "look" / "3.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"3\.png: truncated.*replace it or drop"):
        evaluated(data, seeing, tmp_path)
    assert not (tmp_path / "results").exists()


def test_folders_that_hold_no_model_are_named(data: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.config\.json: can't be read"):
        evaluated(data, tmp_path / "nowhere", tmp_path)
    weights = plain / "model.safetensors"
    weights.unlink()
    torch.save({}, plain / "pytorch_model.bin")  # would run code when it is read
    with pytest.raises(UserError, match=r"language-model: can't be loaded .* safetensors"):
        evaluated(data, plain, tmp_path)
    (plain / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: names no model_type"):
        evaluated(data, plain, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_a_users_mistake(data: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device: cuda is set, but torch finds no CUDA device"):
        evaluated(data, plain, tmp_path, device="cuda")


def test_half_precision_runs(data: Path, seeing: Path, tmp_path: Path) -> None:
    records, _ = evaluated(data, seeing, tmp_path, precision="bf16")
    assert len(records) == 29


def test_the_stage_and_its_config_are_light() -> None:
    code = (
        "import sys, vila_core.stages.evaluate; "
        "sys.exit(' '.join({'torch', 'transformers', 'numpy', 'sacrebleu'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
