from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save, save_file

from tests.train.test_train_resume import Breaks, names
from tests.train.tiny import Recorder, settings, train
from vila_core.errors import VilaError
from vila_core.train.checkpoint import Checkpoints, expired, open_checkpoint
from vila_core.train.difference import differences
from vila_core.train.tensor_file import write_tensors

BIG = 2 << 20  # values: long enough to write that the next line runs before it is done


def test_files_are_those_that_the_library_writes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "b.float": torch.randn(3, 5, generator=generator),
        "a.float": torch.randn(2, generator=generator),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "step": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "count": torch.arange(5),
        "flag": torch.tensor([True, False]),
        'odd "näme"': torch.zeros(1, dtype=torch.float64),
    }
    written = write_tensors(tmp_path / "x.safetensors", tensors)
    assert (tmp_path / "x.safetensors").read_bytes() == save(tensors)
    assert written.size == (tmp_path / "x.safetensors").stat().st_size
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_in_the_background_the_same_files_are_written(tmp_path: Path) -> None:
    for background in (False, True):
        changes = {"keep": 9, "save_in_background": background}
        train(tmp_path / str(background), settings(**changes))
    assert names(tmp_path / "True") == names(tmp_path / "False")
    for file in (tmp_path / "True").rglob("*.safetensors"):
        other = tmp_path / "False" / file.relative_to(tmp_path / "True")
        assert file.read_bytes() == other.read_bytes()


def test_a_save_holds_the_tensors_of_its_moment(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=9, background=True)
    weight = torch.zeros(BIG)
    for step in range(1, 4):
        weight.fill_(step)
        checkpoints.save(step, weights=[("w", weight)], optimizer=[], state={"step": step})
        weight.fill_(-1)
    checkpoints.wait()
    for step in range(1, 4):
        found = load_file(tmp_path / f"step-{step}" / "weights-00000.safetensors")["w"]
        assert torch.equal(found, torch.full((BIG,), float(step)))


def test_a_save_waits_for_the_one_before_and_says_so_once(tmp_path: Path) -> None:
    report = Recorder()
    checkpoints = Checkpoints(tmp_path, keep=9, background=True, report=report)
    for step in range(1, 5):
        weights = [("w", torch.zeros(BIG))]
        checkpoints.save(step, weights=weights, optimizer=[], state={"step": step})
    checkpoints.wait()
    assert len(report.lines) == 1
    assert "training waits for it" in report.lines[0]
    assert len(list(tmp_path.iterdir())) == 4


def test_an_error_of_the_writer_is_raised_once_by_who_asks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for ask in ("check", "wait", "save"):
        checkpoints = Checkpoints(tmp_path / "file", keep=1, background=True)
        save_1 = {"weights": [], "optimizer": [], "state": {"step": 1}}
        checkpoints.save(1, **save_1)
        while checkpoints._task.busy:
            pass
        with pytest.raises(VilaError, match="the checkpoint of step 1 can't be written"):
            checkpoints.save(2, **save_1) if ask == "save" else getattr(checkpoints, ask)()
        checkpoints.wait()


def test_an_error_of_the_last_save_fails_the_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(VilaError, match="the checkpoint of step 12 can't be written"):
        train(tmp_path, settings(save_every=100))


def test_an_interruption_lets_the_save_in_flight_end(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(), source=Breaks(5))  # right after the save of step 5
    assert names(tmp_path) == ["step-5"]


def test_every_nth_stays_for_ever(tmp_path: Path) -> None:
    train(tmp_path, settings(save_every=1, keep=2, keep_every=4))
    assert names(tmp_path) == ["step-11", "step-12", "step-4", "step-8"]
    assert expired([10, 20, 30, 40], keep=1, keep_every=0) == [10, 20, 30]
    assert expired([10, 20, 30, 40], keep=1, keep_every=20) == [10, 30]
    assert expired([10], keep=2, keep_every=0) == []


@pytest.mark.parametrize("save_every", [0, 4])
def test_keep_every_must_fall_on_saves(save_every: int) -> None:
    with pytest.raises(ValidationError, match="must be a multiple of save_every"):
        settings(save_every=save_every, keep_every=6)


def test_the_difference_of_two_checkpoints_is_named(tmp_path: Path) -> None:
    for name in ("one", "other"):
        train(tmp_path / name, settings())
    one, other = (tmp_path / name / "checkpoints/step-12" for name in ("one", "other"))
    assert differences(open_checkpoint(one), open_checkpoint(other)) == []
    path = other / "weights-00000.safetensors"
    tensors = load_file(path)
    tensors["head.weight"][1, 2] = -tensors["head.weight"][1, 2]
    save_file(tensors, path)
    state = json.loads((other / "state.json").read_text())
    assert [row["step"] for row in state["steps"]] == [11, 12], "since the checkpoint of step 10"
    state["steps"][0]["packs"][0][0] = "other/key"
    state["steps"][1]["loss"] += 1e-9
    state["rng"][0]["numpy"][1] += 1
    (other / "state.json").write_text(json.dumps(state))
    found = differences(open_checkpoint(one), open_checkpoint(other))
    assert [text.split(":")[0] for text in found] == [
        "step 11, pack 0, sample 0", "step 12", "weights head.weight", "step 12",
    ]  # fmt: skip
    assert "was tiny/00000/000010, is other/key" in found[0]
    assert "1 of 768 values differ, the first at 26" in found[2]
    assert "random generators" in found[3]
    del tensors["head.weight"]
    save_file(tensors, path)
    assert "weights head.weight: is missing" in differences(
        open_checkpoint(one), open_checkpoint(other)
    )
