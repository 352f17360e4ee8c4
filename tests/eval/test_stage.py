"""The evaluate stage on folders as the pipeline hands them over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from tests.eval.conftest import item, write_task
from vila_core.errors import UserError
from vila_core.miniature.words import write_tokenizer
from vila_core.stages import evaluate

logging.disable_progress_bar()


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A text task and a task with images, and a plain language model that sees nothing."""
    sets = tmp_path / "data" / "eval"
    asked = [item(f"ask/{n}", [{"text": f"q {n} plus 1 a"}], str(n + 1)) for n in range(5)]
    write_task(sets / "ask", asked, blind=False)
    (sets / "look").mkdir()
    (sets / "look" / "a.png").write_bytes(b"never opened")
    write_task(sets / "look", [item("look/0", [{"image": "a.png"}])])
    model = tmp_path / "model"
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=128, num_attention_heads=2)).save_pretrained(
        model
    )
    write_tokenizer(model)
    return {"data": tmp_path / "data", "model": model}


def test_results_hold_one_record_per_sample(inputs: dict[str, Path], tmp_path: Path) -> None:
    result = evaluate.run(evaluate.Config(), inputs, tmp_path)
    folder = result.outputs["results"]
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [record["key"] for record in records] == [f"ask/{n}" for n in range(5)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["skipped"] == ["look"]
    mean = sum(record["score"] for record in records) / 5
    assert result.metrics["ask/accuracy@0"] == summary["metrics"]["ask/accuracy@0"] == mean
    first = (folder / "records.jsonl").read_bytes()
    evaluate.run(evaluate.Config(batch_size=2), inputs, tmp_path)
    assert (folder / "records.jsonl").read_bytes() == first


def test_unknown_task_and_too_many_shots(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'aks'.*did you mean 'ask'"):
        evaluate.run(evaluate.Config(tasks=("aks",)), inputs, tmp_path)
    with pytest.raises(UserError, match="2 are asked for, but 'ask' has 0 demonstrations"):
        evaluate.run(evaluate.Config(tasks=("ask",), shots=(2,)), inputs, tmp_path)
