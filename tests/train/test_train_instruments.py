"""The hang watchdog and the profiler: they tell, and change nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.train.tiny import (
    Recorder,
    TinyModel,
    TinySource,
    same_weights,
    settings,
    tiny_loss,
    train,
)
from vila_core.train.loop import fit
from vila_core.train.phases import Phases
from vila_core.train.watchdog import Watchdog
from vila_core.types import Batch

ROOT = Path(__file__).parents[2]
PAUSE = 0.6


class SlowSource(TinySource):
    """Gives nothing for a while before the third step."""

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        for number, step in enumerate(super().steps(state), start=1):
            if number == 3:
                time.sleep(PAUSE)
            yield step


def slow_loss(model: Any, batch: Batch) -> torch.Tensor:
    if batch.sample_keys == ("tiny/00000/000005",):
        time.sleep(PAUSE)
    return tiny_loss(model, batch)


def test_a_source_that_gives_nothing_is_told_and_nothing_changes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected, report = Recorder(), Recorder()
    whole, _ = train(tmp_path / "one", settings(), report=expected)
    model, _ = train(tmp_path / "two", settings(watchdog_s=0.2), source=SlowSource(), report=report)
    assert report.losses == expected.losses
    assert same_weights(model, whole)
    text = (tmp_path / "two/watchdog-rank-0.txt").read_text()
    assert report.files == {"watchdog-rank-0.txt": text}, "it is kept with the run's record"
    story = text[text.index("step 3, phase data") :]
    assert "no micro-batch in work" in story
    assert 'source state before the step: {"drawn": 2}' in story
    assert re.search(r'File ".*test_train_instruments.py", line \d+ in steps', story), "the stack"
    assert any("step 3, phase data" in line for line in report.lines)
    assert any(re.search(r"step 3 has finished, after [01] s", line) for line in report.lines)
    assert "step 3, phase data" in capfd.readouterr().err
    assert not (tmp_path / "one/watchdog-rank-0.txt").exists()


def test_the_samples_of_the_micro_batch_in_work_are_named(tmp_path: Path) -> None:
    report, config = Recorder(), settings(packs_per_step=2, watchdog_s=0.2)
    source = TinySource(2)
    fit(TinyModel(), source, config, loss_fn=slow_loss, out_dir=tmp_path, report=report)
    text = (tmp_path / "watchdog-rank-0.txt").read_text()
    # From the first telling on: the last one may be written just when the step goes on.
    story = text[text.index("step 3, phase forward") :]
    length = source.pack(5).num_tokens
    assert f"micro-batch 2 of 2: 1 samples, 1 images, {length} tokens (4 of images)" in story
    assert "tiny/00000/000005" in story
    assert "tiny/00000/000004" not in story
    assert "in slow_loss" in story


def test_it_tells_again_with_modalities_and_lengths_and_survives_a_full_disk(
    tmp_path: Path,
) -> None:
    report = Recorder()
    phases = Phases(torch.device("cpu"))
    (tmp_path / "file").write_text("")
    watchdog = Watchdog(0.1, phases, tmp_path / "file", report)  # no folder can be made there
    watchdog.start()
    watchdog.next_step(7, {})
    watchdog.batches = [Batch({}, 5.0, 30, 2, ("a/1", "b/2"), 8, (20, 10), (2, 0))]
    with phases("optimiser"):
        time.sleep(0.35)
    watchdog.close()
    told = [line for line in report.lines if "step 7, phase optimiser" in line]
    assert len(told) >= 2
    assert "watchdog:   a/1: 20 tokens, 2 images" in report.lines
    assert "watchdog:   b/2: 10 tokens, 0 images" in report.lines
    assert any("2 samples (1 with images, 1 text only), 2 images" in x for x in report.lines)
    assert any("not written to" in line for line in report.lines)


def test_zero_seconds_watch_nothing(tmp_path: Path) -> None:
    report = Recorder()
    train(tmp_path, settings(watchdog_s=0, steps=4), source=SlowSource(), report=report)
    assert not list(tmp_path.glob("watchdog*"))


def test_profiling_writes_a_trace_and_changes_no_bit(tmp_path: Path) -> None:
    expected, report = Recorder(), Recorder()
    whole, _ = train(tmp_path / "one", settings(), report=expected)
    model, _ = train(tmp_path / "two", settings(profile_steps=(4, 5)), report=report)
    assert report.losses == expected.losses
    assert same_weights(model, whole)
    text = (tmp_path / "two/profile/rank-0.json").read_text()
    assert report.files == {"profile/rank-0.json": text}
    names = [event.get("name") for event in json.loads(text)["traceEvents"]]
    for phase in ("data", "forward", "backward", "optimiser"):
        assert names.count(f"vila: {phase}") == 2, "one per profiled step"
    assert any("linear" in str(name) for name in names), "torch's own operations are in it"
    assert not (tmp_path / "one/profile").exists()


def test_a_run_that_fails_while_profiling_leaves_the_profiler_off(tmp_path: Path) -> None:
    class Breaks(TinySource):
        def pack(self, number: int) -> Batch:
            if number == 4:
                raise KeyboardInterrupt
            return super().pack(number)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(profile_steps=(3, 9)), source=Breaks())
    train(tmp_path, settings(profile_steps=(5, 6)))
    assert (tmp_path / "profile/rank-0.json").exists()


@pytest.mark.parametrize("steps", [(0, 3), (4, 3), (1, 13)])
def test_profile_steps_must_lie_in_the_training(steps: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="a first and a last step between 1 and steps"):
        settings(profile_steps=steps)


@pytest.mark.slow
def test_of_two_ranks_the_one_that_is_waited_for_can_be_told(tmp_path: Path) -> None:
    """Rank 1 stands still in step 3; rank 0 waits for it. Each writes its own story."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command = [sys.executable, *launcher, "-m", "tests.train.hanging", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    waits, late = [
        _told_twice(3, (tmp_path / f"watchdog-rank-{rank}.txt").read_text()) for rank in (0, 1)
    ]
    assert "step 3, phase forward" in late
    assert "tiny/00000/000005" in late
    assert "in slow_loss" in late
    number, state = _collective(late)
    assert state == "returned"
    assert "tiny/00000/000004" in waits
    assert "LOWEST number" in waits
    assert _collective(waits) == (number + 1, "NOT returned")
    assert "in all_reduce" in waits
    told = json.loads((tmp_path / "attached.json").read_text())
    assert told == ["watchdog-rank-0.txt", "watchdog-rank-1.txt"]


def _told_twice(step: int, text: str) -> str:
    """What was told of the step when it had lasted twice the limit: not yet at its end."""
    stories = re.split(r"(?m)^(?=\S+ rank \d+ of \d+: )", text)
    return [story for story in stories if f"\nstep {step}, " in story][1]


def _collective(story: str) -> tuple[int, str]:
    found = re.search(r"last collective: #(\d+) .*, (NOT returned|returned)\n", story)
    assert found is not None, story
    return int(found[1]), found[2]
