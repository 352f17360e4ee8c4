"""Curves of several runs: one grid, smoothing, bands over seeds, files that are no good."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from evaluated import make_run, rows_of

from vila_core.store import Store, open_store
from vila_ops.comparing.chosen import choose
from vila_ops.comparing.overlay import Overlay, averaged, curve_names, overlay


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def drawn(store: Store, *names: str, metric: str = "loss", **more: object) -> Overlay:
    runs, problems = choose(store, names)
    assert not problems
    return overlay(store, runs, "sft", [metric], **more)  # type: ignore[arg-type]


def test_few_points_are_drawn_as_they_are(store: Store) -> None:
    first = make_run(store, 1, rows=rows_of([4, 3, 2]))
    second = make_run(store, 2, rows=rows_of([5, 4]))
    found = drawn(store, first, second)
    assert found.x.tolist() == [1, 2, 3]
    lines = found.charts[0].lines
    assert [line.label for line in lines] == ["A", "B"]
    assert lines[0].y.tolist() == [4, 3, 2]
    np.testing.assert_array_equal(lines[1].y, [5, 4, np.nan])


@pytest.mark.parametrize(("axis", "x"), [("tokens", [10, 20, 30]), ("time", [1, 2, 3])])
def test_axes(axis: str, x: list[float], store: Store) -> None:
    made = make_run(store, 1, rows=rows_of([4, 3, 2]))
    assert drawn(store, made, axis=axis).x.tolist() == pytest.approx(x)


def test_a_spike_survives_thinning(store: Store) -> None:
    values = [1.0] * 5000
    values[3210] = 99.0
    made = make_run(store, 1, rows=rows_of(values))
    found = drawn(store, made, points=100)
    (line,) = found.charts[0].lines
    assert len(found.x) <= 100
    assert line.high is not None
    assert np.nanmax(line.high) == 99.0
    assert found.rows == 5000


def test_runs_of_different_length_share_the_axis(store: Store) -> None:
    first = make_run(store, 1, rows=rows_of(np.linspace(5, 1, 3000).tolist()))
    second = make_run(store, 2, rows=rows_of(np.linspace(5, 3, 1500).tolist()))
    found = drawn(store, first, second, points=100)
    a, b = (line.y for line in found.charts[0].lines)
    both = np.isfinite(a) & np.isfinite(b)
    np.testing.assert_allclose(a[both], b[both], atol=0.1)
    assert np.isfinite(a[-1])
    assert np.isnan(b[-1])


def test_smoothing_is_a_moving_average_corrected_for_its_start() -> None:
    values = np.array([[1.0, np.nan, 3.0, 5.0]])
    expected = [1.0, np.nan, (0.5 * 1 + 3) / 1.5, (0.25 * 1 + 0.5 * 3 + 5) / 1.75]
    np.testing.assert_allclose(averaged(values, 0.5), [expected])
    constant = np.full((2, 50), 7.0)
    np.testing.assert_allclose(averaged(constant, 0.99), constant)


def test_smoothing_leaves_bands_and_gaps(store: Store) -> None:
    made = make_run(store, 1, rows=rows_of([1.0, 3.0, 1.0, 3.0] * 10))
    (line,) = drawn(store, made, smooth=0.9).charts[0].lines
    assert line.y[-8:].std() < 0.2


def test_repeated_seeds_are_a_mean_with_a_band(store: Store) -> None:
    runs = [
        make_run(store, seed, rows=rows_of([value, value + 1]))
        for seed, value in enumerate([1.0, 2.0, 6.0])
    ]
    other = make_run(store, 9, rows=rows_of([9.0, 9.0]), config={"sft": {"lr": 0.2, "seed": 0}})
    ranged = drawn(store, *runs, other, bands="range").charts[0].lines
    assert [line.label for line in ranged] == ["A, B, C", "D"]
    band = ranged[0]
    assert band.low is not None
    assert band.high is not None
    assert (band.low[0], band.y[0], band.high[0]) == (1.0, 3.0, 6.0)
    deviation = drawn(store, *runs, bands="deviation").charts[0].lines[0]
    assert deviation.high is not None
    assert deviation.high[0] - deviation.y[0] == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_evaluations_of_one_run_share_its_curves(store: Store) -> None:
    made = make_run(store, 1, rows=rows_of([1.0, 2.0]))
    lines = drawn(store, made, f"{made}:evaluate").charts[0].lines
    assert [line.label for line in lines] == ["A"]


def test_runs_of_the_same_seed_are_no_repetitions(store: Store) -> None:
    same = {"sft": {"lr": 0.1, "seed": 0}}
    names = [make_run(store, n, rows=rows_of([1.0, 2.0]), config=same) for n in (1, 2)]
    assert len(drawn(store, *names, bands="range").charts[0].lines) == 2


def test_nan_and_infinity_are_gaps(store: Store) -> None:
    made = make_run(store, 1, rows=rows_of([1.0, math.nan, math.inf, -math.inf, 5.0]))
    (line,) = drawn(store, made).charts[0].lines
    np.testing.assert_array_equal(line.y, [1.0, np.nan, np.nan, np.nan, 5.0])


def test_half_written_and_foreign_rows(store: Store) -> None:
    made = make_run(store, 1)
    path = store.local_path(f"runs/{made}/tasks/sft/001/metrics.jsonl")
    assert path is not None
    rows = ['{"step": 1, "loss": 3.0}', "not json", "[]", '{"step": 2, "loss": 2.0}', '{"step": 3']
    path.write_text("\n".join(rows))
    (line,) = drawn(store, made).charts[0].lines
    assert line.y.tolist() == [3.0, 2.0]


def test_a_cached_training_has_the_curves_that_it_came_from(store: Store) -> None:
    source = make_run(store, 1, rows=rows_of([4.0, 3.0]))
    made = make_run(store, 2)
    place = f"runs/{made}/tasks/sft/001/finished.json"
    value = json.loads(store.read(place))
    store.write(
        place,
        json.dumps({**value, "status": "cached", "cached_from": {"run_id": source}}).encode(),
    )
    (line,) = drawn(store, made).charts[0].lines
    assert line.y.tolist() == [4.0, 3.0]
    store.delete(f"runs/{source}/run.json")
    assert not drawn(store, made).charts[0].lines


def test_names_of_metrics_come_from_the_first_row(store: Store) -> None:
    made = make_run(store, 1, rows=[{"step": 1, "time": 2, "zeta": 1.0, "loss": 1.0, "x": "text"}])
    runs, _ = choose(store, [made])
    assert curve_names(store, runs, "sft") == ["loss", "zeta"]
    assert curve_names(store, runs, "evaluate") == []


def test_a_million_rows(store: Store) -> None:
    made = make_run(store, 1)
    path = store.local_path(f"runs/{made}/tasks/sft/001/metrics.jsonl")
    assert path is not None
    with path.open("w") as file:
        for step in range(0, 1_000_000, 100):
            file.writelines(f'{{"step":{step + n},"loss":1.5}}\n' for n in range(100))
    found = drawn(store, made)
    assert found.rows == 1_000_000
    assert len(found.x) <= 400
    assert set(found.charts[0].lines[0].y.tolist()) == {1.5}
