"""The alignment stage on a model and an evaluation set as the pipeline hands them over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import logging

from tests.eval.conftest import item, write_task
from tests.eval.test_generate import spread
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.eval.files import read_image
from vila_core.eval.items import load_eval_set
from vila_core.eval.similarity import compare
from vila_core.miniature.words import build_tokenizer
from vila_core.model import VilaProcessor, build_preset, load, load_preset, save
from vila_core.stages import alignment

logging.disable_progress_bar()
CAPTIONS = [
    "red circle top-left",
    "blue square top-right",
    "red square bottom-right",
    "green circle bottom-left , blue cross top-left",
]


def config(**values: Any) -> alignment.Config:
    return validate(alignment.Config, values, where="test.yaml", path="alignment")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A model of random weights, and four captioned images."""
    folder = write_task(
        tmp_path / "data/eval/miniature_caption",
        [item(f"c/{n}", [{"image": f"{n}.png"}], text) for n, text in enumerate(CAPTIONS)],
    )
    for n in range(len(CAPTIONS)):
        Image.effect_noise((32, 32), 20 + 40 * n).convert("RGB").save(folder / f"{n}.png")
    torch.manual_seed(5)
    model = build_preset(load_preset("miniature"))
    spread(model)
    half = (0.5, 0.5, 0.5)
    processor = VilaProcessor(
        build_tokenizer(), image_size=32, tokens_per_image=4, mean=half, std=half
    )
    save(model, processor, tmp_path / "model")
    return {"data": tmp_path / "data", "model": tmp_path / "model"}


def test_layers_are_what_one_image_and_one_caption_give_alone(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Batches and their padding change nothing: hidden states of item by item, without padding."""
    result = alignment.run(config(batch_size=3), inputs, tmp_path / "out")
    model, processor = load(inputs["model"])
    model.eval()
    items = load_eval_set(inputs["data"] / "eval/miniature_caption").items
    expected: list[list[float]] = []
    for one, caption in zip(items, CAPTIONS, strict=True):
        part = one.case.parts[0]
        assert not isinstance(part, str)
        ids = processor.tokenizer(processor.expand("scene <image> ."), return_tensors="pt")
        pixels = processor.transform_bytes(read_image(part))[None]
        told = processor.tokenizer(f"scene {caption} .", return_tensors="pt")
        with torch.inference_mode():
            seen = model(ids["input_ids"], pixels, output_hidden_states=True).hidden_states
            read = model(told["input_ids"], output_hidden_states=True).hidden_states
        visual = [layer[0, 1:-1] for layer in seen or ()]
        text = [layer[0, 1:-1] for layer in read or ()]
        expected.append([compare(v, t).chamfer for v, t in zip(visual, text, strict=True)])
    for layer in range(4):
        mean = sum(values[layer] for values in expected) / 4
        assert result.metrics[f"alignment/chamfer@{layer}"] == pytest.approx(mean, abs=1e-5)
    assert len({round(value, 3) for values in expected for value in values}) > 10
    blocks = [result.metrics[f"alignment/chamfer@{layer}"] for layer in (1, 2, 3)]
    assert result.metrics["alignment/chamfer"] == pytest.approx(sum(blocks) / 3)


def test_only_captions_with_one_word_of_a_kind_are_matched(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    result = alignment.run(config(), inputs, tmp_path / "out")
    lines = (result.outputs["results"] / "items.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["key"] for record in records] == ["c/0", "c/1", "c/2", "c/3"]
    matched = [{"match_color" in layer for layer in record["layers"]} for record in records]
    assert matched == [{True}, {True}, {True}, {False}]  # the last names two colours
    hits = [record["layers"][2]["match_color"] for record in records[:3]]
    assert result.metrics["alignment/match_color@2"] == pytest.approx(sum(hits) / 3)
    table = json.loads((result.outputs["results"] / "layers.json").read_text())
    assert table["items"] == 4
    assert len(table["layers"]) == 4


def test_the_images_words_are_found_where_visual_tokens_are_words(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """A projector that hands over the colour's own embedding: matched at the input, every time."""
    model, processor = load(inputs["model"])
    weight_KD = model.get_input_embeddings().get_parameter("weight")
    seen = iter(["red", "blue", "red"])
    words = {word: processor.tokenizer(word)["input_ids"][0] for word in ("red", "blue")}

    class Perfect(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            rows = [weight_KD[words[next(seen)]].expand(4, -1) for _ in features]
            return torch.stack(rows)

    model.projector = Perfect()
    items = load_eval_set(inputs["data"] / "eval/miniature_caption").items[:3]
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "projector_dtype", torch.float32)
        states = alignment._look(items, model, processor, config())
    layers = alignment._layers(states, config())
    assert layers[0].metrics()["match_color"] == 1
    assert layers[0].metrics()["visual_to_text"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"frame": "scene"}, "must stand in it once"),
        ({"words": {"color": ["red"]}}, "two or more words"),
    ],
)
def test_a_config_that_compares_nothing_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        config(**values)


def test_an_unknown_task_and_a_task_of_questions_are_refused(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no 'capt'; prepared tasks: miniature_caption"):
        alignment.run(config(task="capt"), inputs, tmp_path / "out")
    asked = [item("ask/0", [{"text": "q 1 plus 1 a"}], "2")]
    write_task(inputs["data"] / "eval/ask", asked)
    with pytest.raises(UserError, match=r"items.jsonl.*an item of one image"):
        alignment.run(config(task="ask"), inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
