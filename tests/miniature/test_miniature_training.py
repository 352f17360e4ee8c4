"""The base models: data is a function of the step, training learns, files load or are refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.miniature.config import LanguageConfig, TowerConfig
from vila_core.miniature.language import RowSource
from vila_core.miniature.tower import PairSource, PicturePairs, sigmoid_loss
from vila_core.miniature.words import build_tokenizer, words
from vila_core.stages import language_model, vision_tower

TOWER = {
    "miniature": {"pool": 200, "batch": 16},
    "train": {"steps": 12, "lr": 2e-3, "save_every": 0},
}
LANGUAGE = {"miniature": {"rows": 4}, "train": {"steps": 12, "lr": 4e-3, "save_every": 0}}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = validate(vision_tower.Config, TOWER, where="test")
    return vision_tower.run(config, {}, tmp_path_factory.mktemp("tower")).outputs["model"]


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = validate(language_model.Config, LANGUAGE, where="test")
    return language_model.run(config, {}, tmp_path_factory.mktemp("language")).outputs["model"]


def test_rows_follow_from_the_step_alone() -> None:
    source = RowSource(LanguageConfig(rows=4), steps=100)
    through = list(itertools.islice(source.steps(source.initial_state()), 5))
    (resumed,), _ = next(source.steps(through[2][1]))
    (expected,), _ = through[3]
    for name, tensor in expected.tensors.items():
        assert torch.equal(resumed.tensors[name], tensor)


def test_the_curriculum_goes_through_its_phases() -> None:
    config = LanguageConfig.model_validate(
        {"phases": [{"share": 1, "induction": 1}, {"share": 3, "knowledge": 1}], "rows": 4}
    )
    source = RowSource(config, steps=8)
    steps = itertools.islice(source.steps(source.initial_state()), 10)
    arrow = words().index("->")
    kinds = [bool((batch.tensors["input_ids"] == arrow).any()) for (batch,), _ in steps]
    assert kinds == [True] * 2 + [False] * 8


def test_only_what_can_be_told_counts_in_full() -> None:
    config = LanguageConfig.model_validate({"phases": [{"share": 1, "knowledge": 1}], "rows": 4})
    (batch,), _ = next(RowSource(config, 10).steps({"step": 0}))
    vocabulary = words()
    ids, weights = batch.tensors["input_ids"], batch.tensors["loss_weights"]
    for row, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        told = False
        for token, one in zip(row, weight, strict=True):
            assert one == pytest.approx(1.0 if told else 0.1)
            told = vocabulary[token] == "a" or (told and vocabulary[token] != ".")
    assert batch.supervised == pytest.approx(float(weights[:, 1:].sum()))


def test_equal_captions_are_no_negatives() -> None:
    source = PairSource(TowerConfig(pool=40, batch=16, digit_share=0.9, single_share=0.1))
    (batch,), _ = next(source.steps(source.initial_state()))
    torch.manual_seed(0)
    model = PicturePairs(TowerConfig().vision)
    captions = batch.tensors["captions"]
    assert len(captions.unique()) < len(captions)
    tensors = {key: value for key, value in batch.tensors.items() if key != "captions"}
    logits = model(**tensors).detach()
    by_hand = sum(
        torch.nn.functional.softplus(-logits[i, j] if captions[i] == captions[j] else logits[i, j])
        for i in range(16)
        for j in range(16)
    )
    assert sigmoid_loss(model, batch).item() == pytest.approx(float(by_hand), rel=1e-4)


def test_a_fresh_tower_keeps_patches_apart() -> None:
    torch.manual_seed(0)
    model = PicturePairs(TowerConfig().vision).vision.eval()
    picture = torch.zeros(1, 3, 32, 32)
    other = picture.clone()
    other[..., 16:, 16:] = 1.0
    with torch.no_grad():
        change = (model(picture).last_hidden_state - model(other).last_hidden_state).abs().sum(-1)
    assert (change.view(4, 4)[:2] == 0).all()
    assert (change.view(4, 4)[2:, 2:] > 0).all()


def test_tower_trains_and_loads_as_a_transformers_folder(tower: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(str(tower), local_files_only=True)
    assert model.config.model_type == "siglip_vision_model"
    assert model(torch.zeros(2, 3, 32, 32)).last_hidden_state.shape == (2, 16, 64)
    assert json.loads((tower / "preprocessor_config.json").read_text())["image_mean"] == [0.5] * 3
    config = validate(vision_tower.Config, TOWER, where="test")
    again = vision_tower.run(config, {}, tmp_path)
    assert again.metrics["loss"] < again.metrics["loss_first"]
    assert weights(again.outputs["model"]) == weights(tower)


def test_language_model_trains_and_loads_with_its_tokenizer(language: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(language), local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(str(language), local_files_only=True)
    assert tokenizer.convert_tokens_to_ids("<image>") == model.config.vocab_size == 128
    config = validate(language_model.Config, LANGUAGE, where="test")
    again = language_model.run(config, {}, tmp_path)
    assert again.metrics["loss"] < again.metrics["loss_first"]
    assert weights(again.outputs["model"]) == weights(language)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_local_tower_is_imported_whole(tower: Path, tmp_path: Path) -> None:
    result = vision_tower.run(vision_tower.Config(source=str(tower)), {}, tmp_path)
    copied = result.outputs["model"]
    assert weights(copied) == weights(tower)
    assert (copied / "preprocessor_config.json").is_file()


def test_an_imported_tokenizer_gets_image_beyond_the_embedding(
    language: Path, tmp_path: Path
) -> None:
    source = copy(language, tmp_path / "source")
    inner = build_tokenizer()
    inner.backend_tokenizer.save(str(source / "tokenizer.json"))
    value = json.loads((source / "tokenizer.json").read_text())
    value["added_tokens"] = [t for t in value["added_tokens"] if t["content"] != "<image>"]
    del value["model"]["vocab"][words()[-1]]  # fewer words than embedding rows, as real models have
    (source / "tokenizer.json").write_text(json.dumps(value))
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    result = language_model.run(language_model.Config(source=str(source)), {}, tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(str(result.outputs["model"]), local_files_only=True)
    assert loaded.convert_tokens_to_ids("<image>") == 128
    assert loaded("scene <image>red .").input_ids == inner("scene <image>red .").input_ids
    assert weights(result.outputs["model"]) == weights(language)


def test_pickled_weights_are_refused(tower: Path, language: Path, tmp_path: Path) -> None:
    for stage, good in ((vision_tower, tower), (language_model, language)):
        bad = copy(good, tmp_path / stage.__name__)
        (bad / "model.safetensors").rename(bad / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"(?s)pickled weights \(pytorch_model\.bin\).*fix"):
            stage.run(stage.Config(source=str(bad)), {}, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_what_is_wrong_with_a_folder_is_named(tower: Path, language: Path, tmp_path: Path) -> None:
    def refusal(source: Path) -> str:
        with pytest.raises(UserError) as caught:
            vision_tower.run(vision_tower.Config(source=str(source)), {}, tmp_path / "out")
        return str(caught.value)

    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    assert "not the config of a CLIP or SigLIP" in refusal(language)
    bare = copy(tower, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    assert "holds no preprocessor_config.json" in refusal(bare)
    cut = copy(tower, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes(weights(tower)[:2000])
    assert "damaged" in refusal(cut)
    sharded = copy(tower, tmp_path / "sharded")
    names = load_file(sharded / "model.safetensors").keys()
    (sharded / "model.safetensors").unlink()
    index = {"weight_map": {name: "part-1.safetensors" for name in names}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "part-1.safetensors: is named in" in refusal(sharded)
    save_file(load_file(tower / "model.safetensors"), sharded / "part-1.safetensors")
    vision_tower.run(vision_tower.Config(source=str(sharded)), {}, tmp_path / "out")
    assert (tmp_path / "out/model/part-1.safetensors").is_file()
    index["weight_map"]["x"] = "../tower.safetensors"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside" in refusal(sharded)


def test_an_image_word_inside_the_vocabulary_is_refused(language: Path, tmp_path: Path) -> None:
    source = copy(language, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    with pytest.raises(UserError, match="inside the model's vocabulary of 200"):
        language_model.run(language_model.Config(source=str(source)), {}, tmp_path / "out")


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
