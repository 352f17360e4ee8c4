"""What an import or export refuses, and that nothing is left behind when it does."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model.folders import TOWER, write_tower
from tests.model.test_layouts import assert_same, make, tensors
from vila_core.errors import UserError, VilaError
from vila_core.model.layouts import exchange
from vila_core.model.layouts.contents import Contents, read_ours
from vila_core.model.layouts.files import parse_size, read_tensors


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A flat export, without its certificate's cost."""
    exchange.WRITERS["llava"](read_ours(make(tmp_path)), tmp_path / "flat", 10**9)
    return tmp_path / "flat"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def drop_tower(folder: Path) -> None:
    """Make the folder like LLaVA-1.5's: the tower is only named."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "vision_tower" not in name}
    save_file(kept, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]
    config["mm_vision_tower"] = "somebody/some-clip"
    (folder / "config.json").write_text(json.dumps(config))


def test_a_flat_model_without_tower_takes_one_from_a_folder(flat: Path, tmp_path: Path) -> None:
    drop_tower(flat)
    with pytest.raises(UserError, match=r"'somebody/some-clip' is not known(.|\n)*--vision"):
        exchange.import_model(flat, tmp_path / "again")
    write_tower(tmp_path / "clip", "clip")  # a whole one, with its text half
    exchange.import_model(flat, tmp_path / "again", vision_tower=tmp_path / "clip")
    again = read_tensors(tmp_path / "again")
    text = {name: v for name, v in tensors(tmp_path / "ours").items() if "vision" not in name}
    for name, value in text.items():
        assert torch.equal(value, again[name.removeprefix("./")]), name
    theirs = load_file(tmp_path / "clip" / "model.safetensors")
    name = "encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(again[f"vision_tower.{name}"], theirs[f"vision_model.{name}"])


def pickled(folder: Path, value: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(value, folder / "pytorch_model.bin")


def test_pickles_are_refused_unless_converted(flat: Path, tmp_path: Path) -> None:
    pickled(flat, load_file(flat / "model.safetensors"))
    with pytest.raises(UserError, match=r"only pickled weights .pytorch_model.bin."):
        exchange.import_model(flat, tmp_path / "again")
    exchange.import_model(flat, tmp_path / "again", convert_pickles=True)
    assert_same(tensors(tmp_path / "ours"), tensors(tmp_path / "again"))


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return (open_marker, ("x",))


def open_marker(name: str) -> None:
    raise AssertionError("code of a pickle was run")


@pytest.mark.parametrize("value", [{"model.norm.weight": Bomb()}, {"a": 1}, [torch.zeros(1)]])
def test_pickles_with_anything_but_tensors_are_refused(
    flat: Path, tmp_path: Path, value: Any
) -> None:
    pickled(flat, value)
    with pytest.raises(UserError, match=r"pytorch_model.bin: (holds something|is not a table)"):
        exchange.import_model(flat, tmp_path / "again", convert_pickles=True)
    assert not list(tmp_path.glob("*again*"))
    with (flat / "pytorch_model.bin").open("wb") as file:  # the format before zip files
        pickle.dump(value, file, protocol=2)
    with pytest.raises(UserError, match=r"pytorch_model.bin: "):
        exchange.import_model(flat, tmp_path / "again", convert_pickles=True)


def test_an_export_that_differs_fails_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make(tmp_path)
    write = exchange.WRITERS["transformers"]

    def wrong(contents: Contents, folder: Path, size: int) -> None:
        write(contents, folder, size)
        weights = load_file(folder / "model.safetensors")
        weights["multi_modal_projector.linear_1.bias"][0] += 0.01
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setitem(exchange.WRITERS, "transformers", wrong)
    with pytest.raises(VilaError, match=r"differ from ours by .* with 1 images") as caught:
        exchange.export_model(ours, tmp_path / "out", layout="transformers")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("*out*"))


def test_an_existing_folder_is_never_touched(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for action in (
        lambda: exchange.import_model(flat, tmp_path / "out"),
        lambda: exchange.export_model(tmp_path / "ours", tmp_path / "out", layout="llava"),
    ):
        with pytest.raises(UserError, match="out: exists already"):
            action()
    assert not list((tmp_path / "out").iterdir())


def test_folders_of_the_training_machine_are_not_carried_over(flat: Path, tmp_path: Path) -> None:
    edit(flat / "config.json", _name_or_path="runs/train/x", resume_path="runs/train/x")
    exchange.import_model(flat, tmp_path / "again")
    assert "runs/train" not in (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mm_projector_type": "mlp_downsample_3x3_fix"}, "'mlp_downsample_3x3_fix' is not one of"),
        ({"mm_vision_select_layer": [-2, -5]}, "is not one number"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres' is not supported"),
        ({"model_type": "llava_mpt"}, "model_type 'llava_mpt' is not known"),
        ({"mm_projector_type": "linear"}, "'projector.0.bias' .our name. has no place"),
        ({"vocab_size": 60}, "has shape"),
    ],
)
def test_what_our_model_is_not_is_refused(
    flat: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    edit(flat / "config.json", **values)
    with pytest.raises(UserError, match=message):
        exchange.import_model(flat, tmp_path / "again")
    assert not list(tmp_path.glob("*again*"))


def test_missing_tensors_and_files_are_named(flat: Path, tmp_path: Path) -> None:
    weights = load_file(flat / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, flat / "model.safetensors")
    with pytest.raises(UserError, match=r"'language_model.model.norm.weight' .* is missing"):
        exchange.import_model(flat, tmp_path / "again")
    (flat / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        exchange.import_model(flat, tmp_path / "again")
    with pytest.raises(UserError, match="has no layout that is known"):
        exchange.import_model(tmp_path / "tower", tmp_path / "again")
    (tmp_path / "tower" / "processor_config.json").write_text("{}")
    with pytest.raises(UserError, match="fix: vila import it first"):
        exchange.export_model(tmp_path / "tower", tmp_path / "again", layout="llava")


def test_siglip_features_without_their_first_patch_are_refused(tmp_path: Path) -> None:
    ours = read_ours(make(tmp_path, tower="siglip"))
    exchange.WRITERS["vila15"](ours, tmp_path / "out", 10**9)
    edit(tmp_path / "out" / "config.json", mm_vision_select_feature="patch")
    with pytest.raises(UserError, match="has no class token there"):
        exchange.import_model(tmp_path / "out", tmp_path / "again")
    assert TOWER["image_size"] == ours.config.vision_config.image_size


def test_sizes() -> None:
    assert parse_size("5GB") == 5 * 10**9
    assert parse_size("1.5 MiB") == 3 * 2**19
    for text in ("", "GB", "-1GB", "5 apples", "0"):
        with pytest.raises(UserError, match="max-shard-size"):
            parse_size(text)
