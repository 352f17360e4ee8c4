"""The ends of files, points of curves, and their drawing; in a directory and in a bucket."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from dashboards import client_of
from made_runs import begin_task, write_run

from components.runtime.record import begin_driver
from vila_core.store import Store, open_store
from vila_ops.web.chart import curve, thin, ticks
from vila_ops.web.records import tail


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(tmp_path / "store")
    return request.getfixturevalue("s3_store")


def test_the_end_of_a_file_begins_at_a_line(store: Store) -> None:
    lines = [b"line %07d\n" % number for number in range(300_000)]  # several chunks
    store.write("runs/r/log.txt", b"".join(lines))
    assert tail(store, "runs/r/log.txt", 40) == (b"".join(lines[-3:]), True)
    store.write("runs/r/short.txt", b"one\ntwo")
    assert tail(store, "runs/r/short.txt", 40) == (b"one\ntwo", False)
    assert tail(store, "runs/r/short.txt", 7) == (b"one\ntwo", False)
    assert tail(store, "runs/r/none.txt", 40) == (b"", False)
    store.write("runs/r/long.txt", b"x" * 3_000_000)
    data, cut = tail(store, "runs/r/long.txt", 1000)
    assert (len(data), cut) == (1000, True)


def test_a_run_is_shown_from_any_store(store: Store) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(store, run)
    begin_driver(store, run)
    rows = [{"step": step, "loss": 3.0 / step, "mfu": 0.25} for step in range(1, 9)]
    writer = begin_task(store, run, "sft", "sft", rows, log="the log\n")
    writer.progress({"done": 8, "total": 9, "values": {"loss": 0.375}})
    client = client_of(store)
    html = client.get(f"/runs/{run}").text
    assert "the log" in html
    assert "8 rows" in html
    metrics = client.get("/metrics").text
    assert f'vila_task_mfu_ratio{{run="{run}",task="sft"}} 0.25\n' in metrics


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(step), math.sin(step / 5000)) for step in range(100_000)]
    points[77_777] = (77_777.0, 50.0)
    kept = thin(points, 400)
    assert len(kept) <= 2 * 400 + 2
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert (77_777.0, 50.0) in kept
    assert kept == sorted(kept)
    assert thin(points[:10], 400) == points[:10]


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 2.0)],
        [(1.0, 2.0), (2.0, 2.0)],
        [(0.0, 0.0), (1.0, 0.0)],
        [(1.0, -1e308), (2.0, 1e308)],
        [(-1e308, 1.0), (1e308, 2.0)],
        [(1.0, 5e-324), (2.0, 0.0)],
        [(1.0, 1e16), (2.0, 1e16 + 2)],
    ],
)
def test_every_curve_stays_in_its_frame(points: list[tuple[float, float]]) -> None:
    svg = str(curve(points, "a 'label' <b>"))
    assert "nan" not in svg
    assert "inf" not in svg
    assert "&lt;b&gt;" in svg
    found = re.search(r'points="([^"]+)"', svg)
    for pair in found.group(1).split() if found else ():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 480
        assert 0 <= y <= 190
    assert curve([], "nothing") == ""


def test_ticks_are_few_and_round() -> None:
    assert ticks(0.8, 4.1) == [1.0, 2.0, 3.0, 4.0]
    for low, high in ((0.0, 1.0), (2.31, 2.32), (-7e5, 3e9), (1e-290, 2e-290)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 7
        assert all(low <= tick <= high * (1 + 1e-9) for tick in found)
