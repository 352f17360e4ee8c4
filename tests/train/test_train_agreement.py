"""Ranks whose machines share no disk agree on the checkpoint that they continue."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.slow_mirror import SlowMirror
from tests.train.tiny import Recorder
from vila_core.train.checkpoint import Checkpoint, Checkpoints


class Machine:
    """A folder of checkpoints, and a store that all machines reach."""

    def __init__(self, folder: Path, mirror: SlowMirror) -> None:
        self.folder, self.mirror, self.report = folder, mirror, Recorder()

    def save(self, step: int, value: float, *, pushed: bool = False) -> Path:
        mine = Checkpoints(self.folder, keep=9, mirror=self.mirror if pushed else None)
        tensors = [("w", torch.full((3,), value))]
        mine.save(step, weights=tensors, optimizer=[], state={"step": step, "value": value})
        return self.folder / f"step-{step}"

    def latest(self, gather: Callable[[Any], list[Any]]) -> Checkpoint | None:
        mine = Checkpoints(self.folder, keep=9, mirror=self.mirror, report=self.report)
        return mine.latest(gather)


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    mirror = SlowMirror(tmp_path / "store", seconds=0.0)
    return Machine(tmp_path / "one", mirror), Machine(tmp_path / "two", mirror)


def agree(machines: tuple[Machine, Machine]) -> Checkpoint | None:
    """What both get, which must be the same."""
    barrier, values = threading.Barrier(2, timeout=20), [None, None]

    def gather(number: int) -> Callable[[Any], list[Any]]:
        def of_all(value: Any) -> list[Any]:
            values[number] = value
            barrier.wait()
            found = list(values)
            barrier.wait()
            return found

        return of_all

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda n: machines[n].latest(gather(n)), range(2))
    if one is None or two is None:
        assert one is two
        return None
    assert one.state == two.state
    assert torch.equal(*(dict(found.tensors("weights"))["w"] for found in (one, two)))
    return one


def step_of(found: Checkpoint | None) -> int:
    assert found is not None
    return found.step


def test_a_fresh_machine_gets_what_the_store_has(machines: tuple[Machine, Machine]) -> None:
    machines[0].save(5, 1.0, pushed=True)
    assert step_of(agree(machines)) == 5
    assert (machines[1].folder / "step-5/manifest.json").is_file()


def test_what_only_one_machine_has_is_not_continued(machines: tuple[Machine, Machine]) -> None:
    machines[0].save(5, 1.0, pushed=True)
    machines[0].save(10, 2.0)  # its upload failed
    assert step_of(agree(machines)) == 5


def test_another_one_of_the_same_step_gives_way_to_the_stores(
    machines: tuple[Machine, Machine],
) -> None:
    machines[0].save(5, 1.0, pushed=True)
    machines[1].save(5, 2.0)  # of an earlier try, rounded otherwise
    found = agree(machines)
    assert found is not None
    assert found.state["value"] == 1.0


def test_machines_that_differ_and_have_no_store_begin_anew(
    machines: tuple[Machine, Machine],
) -> None:
    machines[0].save(5, 1.0)
    machines[1].save(5, 2.0)
    assert agree(machines) is None
    assert any("the machines have different" in line for line in machines[0].report.lines)


def test_a_damaged_one_is_fetched_or_passed_over_by_all(
    machines: tuple[Machine, Machine],
) -> None:
    for step in (5, 10):
        machines[0].save(step, float(step), pushed=True)
    assert step_of(agree(machines)) == 10
    (machines[1].folder / "step-10/state.json").write_text("{}")
    assert step_of(agree(machines)) == 10, "fetched again"
    shutil.rmtree(machines[1].folder)
    (machines[0].mirror.folder / "step-10/state.json").write_text("{}")
    assert step_of(agree(machines)) == 5
