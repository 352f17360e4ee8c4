"""Any model is evaluated as it lies: other libraries' folders, text paths, several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.eval.benchmarks.test_every_benchmark import ask, make
from tests.eval.test_text_benchmark import run as run_text
from tests.eval.test_text_benchmark import write_bbh, write_mmlu
from tests.eval.tiny import write_tiny_vila
from vila_core.errors import UserError
from vila_core.model.layouts import exchange
from vila_core.model.layouts.contents import read_ours


@pytest.fixture(scope="module")
def vila(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vila(tmp_path_factory.mktemp("models") / "vila", projector="mlp2x_gelu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make("pope")(folder)
    return folder


@pytest.fixture(scope="module")
def ours(vila: Path, files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What our own folder answers."""
    return ask("pope", files, vila, tmp_path_factory.mktemp("ours"))


def write(vila: Path, folder: Path, layout: str) -> Path:
    """Write the model in another library's layout."""
    exchange.WRITERS[layout](read_ours(vila), folder, 10**9)
    return folder


def everything_below(folder: Path) -> list[tuple[str, int]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_mtime_ns) for path in paths]


@pytest.mark.parametrize("layout", ["llava", "vila15"])
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_layouts_of_other_libraries_answer_as_ours(
    layout: str, processes: int, vila: Path, files: Path, ours: dict[str, Any], tmp_path: Path
) -> None:
    theirs = write(vila, tmp_path / "theirs" / "model", layout)
    before = everything_below(tmp_path / "theirs")
    (tmp_path / "out" / "imported").mkdir(parents=True)  # of an attempt that was killed
    (tmp_path / "out" / "imported" / "model").write_text("half")
    found = ask("pope", files, theirs, tmp_path / "out", processes=processes)
    assert found["records"] == ours["records"]
    assert found["summary"]["metrics"] == ours["summary"]["metrics"]
    assert found["summary"]["model"] == ours["summary"]["model"] | {"imported_from": layout}
    assert everything_below(tmp_path / "theirs") == before
    assert not (tmp_path / "out" / "imported").exists()


def test_a_llava_of_transformers_answers_through_its_own_classes(
    vila: Path, files: Path, ours: dict[str, Any], tmp_path: Path
) -> None:
    theirs = write(vila, tmp_path / "model", "transformers")
    found = ask("pope", files, theirs, tmp_path / "out")
    assert found["summary"]["model"]["kind"] == "transformers"
    assert "imported_from" not in found["summary"]["model"]
    assert found["summary"]["metrics"].keys() == ours["summary"]["metrics"].keys()
    # The same weights, images and chat template in other code: the same words to begin with. Later
    # ones may differ, since its own processor rounds resized images otherwise.
    starts = [[record["answer"][:10] for record in each["records"]] for each in (found, ours)]
    assert starts[0] == starts[1]
    assert len(set(starts[0])) > 2


@pytest.mark.parametrize("layout", ["llava", "vila15"])
def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    layout: str, vila: Path, files: Path, tmp_path: Path
) -> None:
    theirs = write(vila, tmp_path / "model", layout)
    weights = next(path for path in sorted(theirs.rglob("model.safetensors")))
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(UserError) as told:
        ask("pope", files, theirs, tmp_path / "out")
    assert "only pickled weights (pytorch_model.bin)" in str(told.value)
    assert f"fix: vila import {theirs} --to NEW --convert-pickles" in str(told.value)
    assert not (tmp_path / "out" / "imported").exists()


def test_text_benchmarks_take_the_language_path(vila: Path, tmp_path: Path) -> None:
    data = write_mmlu(tmp_path / "mmlu")
    settings = {"subjects": ["anatomy"], "shots": [1]}
    first = run_text(tmp_path / "1", data, "mmlu", model=str(vila), **settings)
    theirs = str(write(vila, tmp_path / "model", "vila15"))
    found = run_text(tmp_path / "2", data, "mmlu", model=theirs, **settings)
    assert found["records"] == first["records"]
    assert found["summary"]["model"]["imported_from"] == "vila15"
    # A language model without a vision tower is opened as it is.
    plain = vila.parent / "vila-parts" / "language"
    data = write_bbh(tmp_path / "bbh")
    bbh = {"subjects": ["navigate"], "shots": [1]}
    found = run_text(tmp_path / "3", data, "bbh", model=str(plain), **bbh)
    assert found["summary"]["model"]["kind"] == "language model"
    assert found["summary"]["health"]["answers"] == 2
