from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.tiny import (
    Recorder,
    TinyModel,
    TinySource,
    same_weights,
    settings,
    tiny_loss,
    train,
)
from vila_core.errors import UserError, VilaError
from vila_core.train.checkpoint import Checkpoints
from vila_core.train.loop import fit
from vila_core.types import Batch

ROOT = Path(__file__).parents[2]


class Breaks(TinySource):
    """Fails when step number `at` is asked for, as a killed process would."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        for batches, after in super().steps(state):
            if after["drawn"] > self.at:
                raise KeyboardInterrupt
            yield batches, after


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("at", [5, 7, 11])
def test_an_interrupted_run_ends_with_the_same_bits(at: int, tmp_path: Path) -> None:
    straight, resumed = Recorder(), Recorder()
    whole, expected = train(tmp_path / "whole", settings(), report=straight)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", settings(), source=Breaks(at))
    random.random()
    torch.rand(2)
    model, result = train(tmp_path / "cut", settings(), report=resumed)
    last = at // 5 * 5
    assert result.resumed_from == last
    assert same_weights(model, whole)
    assert resumed.losses == straight.losses[last:]
    assert (result.loss_first, result.loss_last) == (expected.loss_first, expected.loss_last)
    assert (result.tokens, result.images) == (expected.tokens, expected.images)
    straight_rows = {step: row for step, row in straight.rows if step > last}
    assert [step for step, _ in resumed.rows] == list(straight_rows)
    for step, row in resumed.rows:  # what doesn't depend on the clock
        for key in ("loss", "lr", "grad_norm"):
            assert row[key] == straight_rows[step][key]
    both = [
        load_file(tmp_path / way / "checkpoints/step-12/optimizer-00000.safetensors")
        for way in ("whole", "cut")
    ]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole, expected = train(tmp_path, settings())
    model, result = train(tmp_path, settings(), source=Breaks(0))
    assert same_weights(model, whole)
    assert result.resumed_from == result.steps == 12
    assert result.loss_last == expected.loss_last


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_weights_are_the_same(tmp_path: Path) -> None:
    """A process of its own that saves at every step is killed twice, then left to end."""
    kills = [signal.SIGKILL, signal.SIGTERM]
    runs = json.dumps([{"save_every": 1, "steps": 150}])
    command = [sys.executable, "-m", "tests.train.tiny", str(tmp_path), runs]
    result = tmp_path / "0" / "result.json"
    for kill in [*kills, None]:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        after = random.randint(20, 60)
        for number, _ in enumerate(process.stdout):
            if number == after and kill is not None:
                process.send_signal(kill)
                break
        process.stdout.close()
        assert process.wait() == (0 if kill is None else -kill), f"killed after {after} steps"
    config = settings(save_every=0, steps=150)
    expected, _ = train(tmp_path / "whole", config)
    weights = json.loads(result.read_text())["weights"]
    for name, value in expected.state_dict().items():
        assert weights[name] == value.tolist()
    assert names(tmp_path / "0") == ["step-149", "step-150"], "no remains of the kills"


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    train(tmp_path, settings(save_every=2, keep=3))
    assert names(tmp_path) == ["step-10", "step-12", "step-8"]
    files = {path.name for path in (tmp_path / "checkpoints/step-12").iterdir()}
    assert files == {
        "manifest.json", "optimizer-00000.safetensors", "state.json", "weights-00000.safetensors",
    }  # fmt: skip
    weights = load_file(tmp_path / "checkpoints/step-12/weights-00000.safetensors")
    assert "embedding.weight" not in weights, "frozen weights are the input's, not copied"
    assert {"head.weight", "scale"} <= set(weights)


def test_save_every_zero_writes_nothing(tmp_path: Path) -> None:
    train(tmp_path, settings(save_every=0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "manifest", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path) -> None:
    whole, _ = train(tmp_path, settings())
    newest = tmp_path / "checkpoints" / "step-12"
    file = newest / "weights-00000.safetensors"
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "delete":
        file.unlink()
    elif damage == "manifest":
        (newest / "manifest.json").write_text("{")
    else:
        (newest / "manifest.json").unlink()
    report = Recorder()
    model, result = train(tmp_path, settings(), report=report)
    assert result.resumed_from == 10
    assert any("step-12 is passed over" in line for line in report.lines)
    assert same_weights(model, whole)
    assert Checkpoints(tmp_path / "checkpoints", keep=2).latest() is not None
    assert names(tmp_path) == ["step-10", "step-12"]


def test_large_checkpoints_are_cut_into_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vila_core.train.checkpoint.SHARD_BYTES", 2000)
    whole, _ = train(tmp_path / "whole", settings())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", settings(), source=Breaks(6))
    folder = tmp_path / "cut/checkpoints/step-5"
    assert len(list(folder.glob("weights-*.safetensors"))) > 1
    assert same_weights(train(tmp_path / "cut", settings())[0], whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.03}, r"lr was 0.02, is 0.03"),
        ({"steps": 13}, r"steps was 12, is 13"),
        ({"seed": 4, "clip": 1.0}, r"clip was 0.5, is 1.0; seed was 0, is 4"),
        ({"precision": "bf16"}, r"precision was fp32, is bf16"),
    ],
)
def test_another_config_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    train(tmp_path, settings())
    with pytest.raises(UserError, match=message) as caught:
        train(tmp_path, settings(**changes))
    assert "step-12" in str(caught.value)
    assert "delete the checkpoints" in str(caught.value)


def test_other_data_or_another_model_are_refused(tmp_path: Path) -> None:
    train(tmp_path, settings())
    source = TinySource()
    source.fingerprint = "other"
    with pytest.raises(UserError, match="the data are others"):
        train(tmp_path, settings(), source=source)
    model = TinyModel()
    with torch.no_grad():
        model.embedding.weight[0, 0] += 1  # frozen: no checkpoint holds it
    with pytest.raises(UserError, match="the model it starts from"):
        fit(model, TinySource(), settings(), loss_fn=tiny_loss, out_dir=tmp_path)


def test_what_changes_no_numbers_may_change(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(), source=Breaks(6))
    _, result = train(tmp_path, settings(save_every=3, log_every=1, keep=1))
    assert result.resumed_from == 5


def test_a_file_that_cannot_be_written_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The limit on file size stands for a full disk: the write fails half-way, for real."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(), source=Breaks(6))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(VilaError, match="the checkpoint of step 10 can't be written"):
            train(tmp_path, settings())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-5"]
    whole, _ = train(tmp_path / "whole", settings())
    assert same_weights(train(tmp_path, settings())[0], whole)


def test_a_full_disk_is_said_in_words() -> None:
    from vila_core.train.checkpoint import _explain

    text = _explain(OSError(28, "No space left on device"), Path("/out/checkpoints"), 40)
    assert "no space left" in text
    assert "step 40" in text
