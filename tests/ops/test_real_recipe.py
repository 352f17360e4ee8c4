"""The real recipe, made small: killed in the middle, resumed, and equal to an undisturbed run."""

import json
import os
import signal
from pathlib import Path

import pytest
from test_control import steps_of, until
from test_run import digests, show, statuses
from toy_vila import Vila

pytestmark = pytest.mark.slow

SMALL = """
tracking: {wandb: disabled}
prepare:
  miniature:
    {captions: 60, documents: 40, conversations: 40, instructions: 60, eval_items: 2,
     eval_digits: 10}
vision_tower: {train: {steps: 4, lr: 1.0e-3}}
language_model: {train: {steps: 4, lr: 1.0e-3}}
align: {mixture: {coyo: 1.0}, train: {steps: 4, lr: 1.0e-3}}
pretrain:
  mixture: {mmc4: 0.5, coyo: 0.5}
  train: {steps: 40, lr: 1.0e-3, save_every: 5, log_every: 1}
sft: {mixture: {llava: 0.5, flan: 0.5}, train: {steps: 4, lr: 1.0e-3}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def rows(vila: Vila, attempt: int) -> int:
    """How many steps an attempt at pretrain has logged; every fifth is followed by a checkpoint."""
    path = next(vila.store.glob(f"runs/*/tasks/pretrain/{attempt:03d}/metrics.jsonl"), None)
    return len(path.read_text().splitlines()) if path else 0


def test_killed_twice_and_resumed_it_ends_as_an_undisturbed_inline_run(
    vila: Vila, small: Path, tmp_path: Path
):
    process = vila.start("run", small)
    until(lambda: rows(vila, 1) >= 8, seconds=180)
    process.kill()
    process.communicate()
    until(lambda: not steps_of(vila), seconds=5)
    assert show(vila)["status"] == "interrupted"

    process = vila.start("resume", "last")
    until(lambda: rows(vila, 2) >= 8, seconds=60)
    started = next(vila.store.glob("runs/*/tasks/pretrain/002/started.json"))
    os.kill(json.loads(started.read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err

    vila("resume", "last")
    resumed = show(vila)
    assert resumed["status"] == "succeeded"
    assert all(status == "succeeded" for status in statuses(resumed).values())
    assert [task["attempt"] for task in resumed["tasks"] if task["name"] == "pretrain"] == [3]

    other = tmp_path / "undisturbed"
    vila("run", small, "--runner", "inline", "--store", other)
    undisturbed = json.loads(vila("show", "last", "--json", "--store", other))
    assert digests(resumed) == digests(undisturbed)
    assert resumed["metrics"] == undisturbed["metrics"]

    image = next(vila.store.glob("artifacts/*/eval/miniature_vqa/images/*.png"))
    answer = json.loads(vila("ask", "miniature@1", image, "q color of circle", "--json"))
    assert answer["model"] == "miniature@1"
    assert "words: What, it?" in vila("ask", "last", image, "What is it?", code=2)
