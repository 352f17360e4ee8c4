"""The feature cache: the same training to the bit, whatever is found in it."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from tests.train import test_train_stages as stages
from tests.train.tiny import Recorder
from vila_core.config import validate
from vila_core.errors import UserError
from vila_core.model import build, freeze
from vila_core.model.presets import load_preset
from vila_core.model.vision_tower import tower_features
from vila_core.stages import align, pretrain, sft, vision_tower
from vila_core.train.config import TrainConfig
from vila_core.train.feature_file import FeatureFile
from vila_core.train.features import FeatureCache
from vila_core.types import Batch

parts = stages.parts  # the fixture
RECORD = 16 * 16 * 4  # bytes of an image's features: 16 patches, width 16, fp32
COYO = 2  # different images among its 24
TWO = {"engine": "deepspeed", "packs_per_step": 2, "processes": 2}


def same(one: Any, other: Any) -> bool:
    return stages.changed(one.outputs["model"], other.outputs["model"]) == set()


def read(path: Path) -> FeatureFile:
    return FeatureFile(path, 4, 4000)


def record(number: int) -> tuple[bytes, np.ndarray]:
    data = np.full(4, number, dtype=np.uint8)
    return hashlib.sha256(data.tobytes()).digest(), data


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_towers_features_of_an_image_do_not_depend_on_its_batch(kind: str) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3}
    shape |= {"num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    tower: Any = (
        CLIPVisionModel(CLIPVisionConfig(**shape))
        if kind == "clip"
        else SiglipVisionModel(SiglipVisionConfig(**shape, vision_use_head=False))
    )
    tower.eval().requires_grad_(False)
    images = torch.randn(13, 3, 56, 56)

    def features(some: torch.Tensor) -> torch.Tensor:
        return tower_features(tower, some, layer=-2, select="patch")

    alone = torch.cat([features(image) for image in images.split(1)])
    for size in (2, 3, 5, 8, 13):
        assert torch.equal(torch.cat([features(some) for some in images.split(size)]), alone), size


def test_losses_and_weights_are_those_without_a_cache(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    without, kept = Recorder(), Recorder()
    one = stages.run_align(parts, tmp_path / "without", without)
    two = stages.run_align(parts, tmp_path / "kept", kept, cache_features="1MiB")
    assert kept.losses == without.losses
    assert same(one, two)
    images = one.metrics["images"]
    assert two.metrics["feature_hit_rate"] == (images - COYO) / images
    assert [row["feature_hit_rate"] for _, row in kept.rows][-1] == 1
    assert not any("feature_hit_rate" in row for _, row in without.rows)
    assert "feature_hit_rate" not in one.metrics
    room = 2**20 // (RECORD + 48)
    told = f"cache_features: room for {room:,} images, {RECORD:,} bytes each; 0 are there"
    assert told in kept.lines
    assert not (tmp_path / "kept/features").exists(), "it is deleted when the training is done"


def test_packs_of_text_and_of_documents_are_those_without_a_cache(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    base = stages.run_align(parts, tmp_path / "align").outputs["model"]
    inputs = {"base": base, "data": parts["data"]}
    for stage in (pretrain, sft):
        results = []
        for size in (0, "1MiB"):
            out_dir, report = tmp_path / f"{stage.__name__}-{size}", Recorder()
            out_dir.mkdir()
            config = stages.config(stage, cache_features=size, steps=6)
            results.append((stage.run(config, inputs, out_dir, report), report.losses))
        (one, losses), (two, kept) = results
        assert losses == kept
        assert same(one, two)
        assert two.metrics["feature_hit_rate"] > 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_found_changes_nothing(
    parts: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    """With room for one image most are computed anew, with room for all they are found."""
    train = {"precision": precision, "steps": 6, "save_every": 0}
    small, large = Recorder(), Recorder()
    one = stages.run_align(parts, tmp_path / "small", small, **train, cache_features=RECORD + 48)
    two = stages.run_align(parts, tmp_path / "large", large, **train, cache_features="1MiB")
    assert small.losses == large.losses
    assert same(one, two)
    assert 0 < one.metrics["feature_hit_rate"] < two.metrics["feature_hit_rate"]
    assert "cache_features: no more images are kept (it holds 1 images)" in small.lines


class Cut(Recorder):
    """Interrupts at step 8."""

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        super().progress(done, total, unit, **values)
        if done == 8:
            raise KeyboardInterrupt


def test_a_resumed_training_finds_them_and_has_the_same_bits(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    whole = stages.run_align(parts, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        stages.run_align(parts, tmp_path / "cut", Cut(), cache_features="1MiB")
    again = Recorder()
    resumed = stages.run_align(parts, tmp_path / "cut", again, cache_features="1MiB")
    assert "resumed after step 5 from step-5" in again.lines
    assert any(line.endswith("2 are there") for line in again.lines)
    assert same(whole, resumed)
    images = whole.metrics["images"]
    assert resumed.metrics["feature_hit_rate"] == (images - COYO - 1) / images


def test_a_training_may_go_on_with_a_cache_and_says_so(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    whole = stages.run_align(parts, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        stages.run_align(parts, tmp_path / "cut", Cut())
    again = Recorder()
    resumed = stages.run_align(parts, tmp_path / "cut", again, cache_features="1MiB")
    (told,) = (line for line in again.lines if line.startswith("resumed"))
    assert told.endswith("and cached features: equal within rounding, not bit for bit")
    assert same(whole, resumed), "on a CPU in fp32 the bits are equal all the same"


@pytest.mark.slow
def test_ranks_share_it_and_learn_what_they_learn_without(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    one = stages.run_align(parts, tmp_path / "without", **TWO)
    two = stages.run_align(parts, tmp_path / "kept", **TWO, cache_features="1MiB")
    assert same(one, two)
    images = one.metrics["images"]
    missed = images * (1 - two.metrics["feature_hit_rate"])
    # Both ranks compute their first image, and may compute the same one at the same moment.
    assert COYO - 0.01 < missed < 2 * COYO + 0.01


def made_model(parts: dict[str, Path]) -> Any:
    model, processor = build(
        parts["vision_tower"], parts["language_model"], load_preset("miniature").model
    )
    freeze(model, ["projector"])
    return model, processor


def batch_of(*colours: float) -> Batch:
    pixels = torch.stack([torch.full((3, 16, 16), colour) for colour in colours])
    digests = tuple(hashlib.sha256(str(colour).encode()).digest() for colour in colours)
    return Batch({"pixel_values": pixels}, 1, 1, len(colours), image_digests=digests)


def test_another_tower_reads_nothing_of_the_first(parts: dict[str, Path], tmp_path: Path) -> None:
    model, processor = made_model(parts)
    config = TrainConfig(steps=1, lr=1, cache_features=10**6)  # type: ignore[arg-type]
    batch = batch_of(0.5, 0.25, 0.5)

    def features() -> tuple[torch.Tensor, int]:
        cache = FeatureCache(model, processor.settings(), config, tmp_path)
        found = cache.features(batch)
        cache.close()
        return found, cache.take_hits()

    first, hits = features()
    assert hits == 1, "the third image is the first"
    assert torch.equal(first[0], first[2])
    again, hits = features()
    assert hits == 2, "all but the one whose shape tells the file's name"
    assert torch.equal(first, again)
    with torch.no_grad():
        next(iter(model.vision_tower.parameters())).view(-1)[-1] += 1
    other, hits = features()
    assert hits == 1
    assert not torch.equal(first, other)
    assert len(list((tmp_path / "features").iterdir())) == 2, "the first tower's are deleted"


def test_a_disk_that_is_full_stops_the_cache_and_not_the_training(
    parts: dict[str, Path], tmp_path: Path
) -> None:
    model, processor = made_model(parts)
    config = TrainConfig(steps=1, lr=1, cache_features=10**6)  # type: ignore[arg-type]
    report = Recorder()
    cache = FeatureCache(model, processor.settings(), config, tmp_path, report)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (RECORD + 100, hard))
    try:
        found = cache.features(batch_of(0.1, 0.2, 0.3))
        again = cache.features(batch_of(0.1, 0.2, 0.3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    cache.close()
    assert torch.equal(found, again)
    assert cache.take_hits() == 1
    assert sum("no more images are kept" in line for line in report.lines) == 1


def test_a_damaged_record_is_computed_anew(tmp_path: Path) -> None:
    first = read(tmp_path / "f")
    for number in (1, 2):
        assert first.write(*record(number))
    with (tmp_path / "f.records").open("r+b") as file:
        file.write(b"\0")
    with (tmp_path / "f.index").open("ab") as file:
        file.write(b"cut off")
    second, into = read(tmp_path / "f"), np.zeros(4, dtype=np.uint8)
    assert len(second) == 2
    assert not second.read(record(1)[0], into)
    assert second.read(record(2)[0], into)
    assert into.tolist() == [2] * 4
    assert second.write(*record(1))  # over the entry that was cut off
    third = read(tmp_path / "f")
    assert third.read(record(1)[0], into)
    assert into.tolist() == [1] * 4
    first.refresh()
    assert first.read(record(1)[0], into)


def test_the_budget_bounds_the_files_of_all_who_write(tmp_path: Path) -> None:
    budget = 3 * (4 + 48) + 10
    one, two = (FeatureFile(tmp_path / "f", 4, budget) for _ in range(2))
    assert one.capacity == 3
    kept = [(one, two)[number % 2].write(*record(number)) for number in range(5)]
    assert kept == [True, True, True, False, False]
    assert one.write(*record(1)), "what is there needs no room"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= budget


def test_what_cannot_be_cached_is_told(parts: dict[str, Path], tmp_path: Path) -> None:
    tower = {"trains": ["vision_tower", "projector"]}
    train = {"steps": 2, "lr": 0.1, "cache_features": "1GiB"}
    for stage in (align, pretrain, sft):
        with pytest.raises(UserError, match=r"recipe.*cache_features keeps .* frozen.*take it out"):
            validate(stage.Config, {**tower, "train": train}, where="recipe.yaml")
    with pytest.raises(UserError, match="this stage trains it; set it to 0"):
        validate(vision_tower.Config, {"train": train}, where="recipe.yaml")
    zero = {"engine": "deepspeed", "zero_stage": 3}
    with pytest.raises(UserError, match="does not go with zero_stage 3"):
        validate(TrainConfig, {**train, **zero}, where="recipe.yaml")
    for wrong in ("much", -1):
        with pytest.raises(UserError, match="cache_features"):
            validate(TrainConfig, {**train, "cache_features": wrong}, where="recipe.yaml")
    with pytest.raises(UserError, match=r"100 bytes have no room for one image's features \(1,024"):
        stages.run_align(parts, tmp_path / "small", cache_features=100)
    model, processor = made_model(parts)
    freeze(model, ["vision_tower"])
    config = TrainConfig(steps=1, lr=1, cache_features=10**6)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the vision tower trains"):
        FeatureCache(model, processor.settings(), config, tmp_path)
