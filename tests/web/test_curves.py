"""Curves from metrics.jsonl: attempts merged, a million rows folded, anything else survived."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import begin_task, write_run
from safetensors.numpy import load, save

from components.runtime.folding import BUCKETS, FOLDED, ROWS, fold_rows
from components.runtime.metric_rows import columns, pieces
from components.runtime.record import begin_driver, close_attempt
from vila_core.store import Store, open_store
from vila_ops.curves import CurveMemory, Curves, iter_rows, listed_numbers, read_curves
from vila_ops.runs import load_view

RUN = "toy-1129-101010-aaaa"


@pytest.fixture
def run_store(folder_store: Store) -> Store:
    write_run(folder_store, RUN)
    begin_driver(folder_store, RUN)
    return folder_store


def curves(store: Store, *keys: str, memory: CurveMemory | None = None, **more: object) -> Curves:
    view = load_view(store, RUN)
    task = view.task("sft")
    assert task is not None
    memory = memory or CurveMemory()
    return read_curves(store, view, task, keys or None, memory=memory, **more)  # type: ignore[arg-type]


def row(step: int, **more: object) -> dict[str, object]:
    return {"step": step, "time": 1000.0 + step, "loss": 1.0 / step, **more}


def test_rows_that_fit_are_the_points(run_store: Store) -> None:
    begin_task(run_store, RUN, "sft", "sft", [row(step, lr=0.5) for step in range(1, 101)])
    found = curves(run_store, "loss", "nothing")
    assert not found.thinned
    assert found.x.tolist() == list(range(1, 101))
    assert found.series["loss"].y.tolist() == [1.0 / step for step in range(1, 101)]
    assert np.isnan(found.series["nothing"].y).all()
    assert found.names == ("loss", "lr")
    assert set(curves(run_store).series) == {"loss", "lr"}
    assert next(iter_rows(found)) == {"step": 1.0, "loss": 1.0, "nothing": None}
    assert "low" not in found.as_json()["series"][0]


def test_many_rows_are_folded_and_no_spike_is_lost(run_store: Store) -> None:
    rows = [row(step, flat=2.0) for step in range(1, 30_001)]
    rows[17_776]["loss"] = 99.0
    rows[5]["loss"] = None
    begin_task(run_store, RUN, "sft", "sft", rows)
    found = curves(run_store, points=400)
    assert found.thinned
    assert (len(found.x), found.rows) == (400, 30_000)
    assert found.x[-1] == 30_000
    assert (np.diff(found.x) > 0).all()
    loss = found.series["loss"]
    assert np.nanmax(loss.high) == 99.0
    assert np.nanmin(loss.low) == 1.0 / 30_000
    assert ((loss.low <= loss.y) & (loss.y <= loss.high)).all()
    exact = np.mean([1.0 / step for step in range(29_000, 30_001)])
    near = loss.y[found.x > 29_000]
    assert near.mean() == pytest.approx(exact, rel=1e-2)
    assert found.series["flat"].y.tolist() == [2.0] * 400
    text = json.dumps(found.as_json(), allow_nan=False)
    assert json.loads(text)["x_label"] == "step"


def test_what_a_later_attempt_did_again_counts(run_store: Store) -> None:
    for _ in range(2):
        begin_task(run_store, RUN, "sft", "sft", [row(step) for step in range(1, 11)])
    begin_task(run_store, RUN, "sft", "sft", [row(step, loss=7.0) for step in range(6, 9)])
    found = curves(run_store, "loss")
    assert found.x.tolist() == list(range(1, 11))
    assert found.series["loss"].y[4:9].tolist() == [1 / 5, 7.0, 7.0, 7.0, 1 / 9]


def test_axes(run_store: Store) -> None:
    rows = [row(step, tokens_per_s=100.0, step_s=0.5) for step in (10, 20, 30)]
    begin_task(run_store, RUN, "sft", "sft", rows)
    assert curves(run_store, "loss", axis="tokens").x.tolist() == [500.0, 1000.0, 1500.0]
    assert curves(run_store, "loss", axis="time").x.tolist() == [5.0, 15.0, 25.0]


def test_an_axis_that_rows_lack_has_no_points(run_store: Store) -> None:
    begin_task(run_store, RUN, "sft", "sft", [{"step": 1, "loss": 2.0}])
    assert len(curves(run_store, "loss", axis="tokens").x) == 0
    assert len(curves(run_store, "loss", axis="time").x) == 0
    assert curves(run_store, "loss").x.tolist() == [1.0]


def test_a_live_file_costs_its_new_rows(run_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", [row(step) for step in range(1, 5001)])
    memory = CurveMemory()
    before = curves(run_store, "loss", memory=memory)
    seen: list[int] = []
    monkeypatch.setattr(
        "components.runtime.folding.columns",
        lambda piece, only: seen.append(len(piece)) or columns(piece, only),
    )
    with (writer.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(5001, extra=1.0)) + "\n" + '{"step": 5002, "lo')
    after = curves(run_store, "loss", "extra", memory=memory)
    assert seen == [len(json.dumps(row(5001, extra=1.0))) + 1]
    assert (before.rows, after.rows) == (5000, 5001)
    assert after.x[-1] == 5001
    assert after.series["extra"].y[-1] == 1.0
    (writer.folder / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n")
    assert curves(run_store, "loss", memory=memory).x.tolist() == [1.0], "a file that was replaced"


def test_columns_are_added_for_long_files(
    run_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vila_ops.curves.WHOLE_BYTES", 1000)
    begin_task(run_store, RUN, "sft", "sft", [row(s, a=s, b=2 * s) for s in range(1, 201)])
    memory = CurveMemory()
    assert curves(run_store, "a", memory=memory).series["a"].y[9] == 10
    both = curves(run_store, "a", "b", memory=memory)
    assert (both.series["a"].y[9], both.series["b"].y[9]) == (10, 20)


def test_memory_is_bounded(run_store: Store) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", [row(step) for step in range(1, 20_001)])
    memory = CurveMemory(most_bytes=100_000)
    for _ in range(5):
        curves(run_store, memory=memory)
        writer = begin_task(run_store, RUN, "sft", "sft", [row(step) for step in range(1, 3000)])
    assert writer.number == 6
    assert 0 < memory.bytes <= 2 * 4 * BUCKETS * 5 * 8


def long_rows(many: int = 12_000) -> list[dict[str, object]]:
    rows = [row(step, tokens_per_s=100.0, step_s=0.5, lr=step / 7) for step in range(1, many + 1)]
    rows[many // 2]["loss"] = 99.0
    return rows


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("rows are read")

    monkeypatch.setattr("components.runtime.folding.columns", refused)


@pytest.mark.parametrize("bucket", [False, True])
def test_a_long_attempt_that_ended_is_not_read_again(
    run_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: bool
) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", long_rows())
    before = curves(run_store)
    assert not (writer.folder / FOLDED).exists()
    writer.finish({"status": "succeeded"})
    assert (writer.folder / FOLDED).stat().st_size < (writer.folder / ROWS).stat().st_size / 2
    if bucket:
        run_store.local_path = lambda key: None  # type: ignore[method-assign, assignment]
    no_reading(monkeypatch)
    for axis in ("step", "tokens", "time"):
        found = curves(run_store, "loss", axis=axis)
        assert found.rows == 12_000
        assert np.nanmax(found.series["loss"].high) == 99.0
    after = curves(run_store)
    assert after.x.tolist() == before.x.tolist()
    for name, one in before.series.items():
        for part in ("y", "low", "high"):
            same = getattr(after.series[name], part), getattr(one, part)
            np.testing.assert_array_equal(*same)


def test_an_attempt_that_was_killed_is_folded_by_the_driver(run_store: Store) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", long_rows())
    with (writer.folder / ROWS).open("a") as file:
        file.write('{"step": 12001, "lo')
    close_attempt(run_store, RUN, "sft", after=0, exit_code=-9, message="killed")
    assert (writer.folder / FOLDED).exists()
    assert curves(run_store, "loss").rows == 12_000


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), ValueError("odd")])
def test_rows_that_cannot_be_folded_leave_the_attempt_as_it_ended(
    run_store: Store, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", long_rows())

    def fails(self: Path, target: Path) -> None:
        assert writer.folder.joinpath(".vila-reserve").exists()
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fails)
        fold_rows(writer.folder)
    assert not [path for path in writer.folder.iterdir() if path.name.endswith(FOLDED)]
    monkeypatch.setattr("components.runtime.folding.Folded.to_bytes", lambda self: 1 / 0)
    assert writer.finish({"status": "succeeded"})
    assert curves(run_store, "loss").rows == 12_000


def test_short_rows_and_those_of_few_numbers_have_no_buckets(run_store: Store) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", long_rows(1000))
    writer.finish({"status": "succeeded"})
    assert not (writer.folder / FOLDED).exists()


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("kind", ["text", "cut", "other arrays", "other sizes"])
def test_buckets_that_are_none_leave_the_rows(run_store: Store, bucket: bool, kind: str) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft", long_rows())
    writer.finish({"status": "succeeded"})
    place = writer.folder / FOLDED
    whole = place.read_bytes()
    arrays = load(whole)
    place.chmod(0o644)
    place.write_bytes(
        {
            "text": b"hello",
            "cut": whole[:-100],
            "other arrays": save({"loss": np.zeros(3)}),
            "other sizes": save({**arrays, "stats": arrays["stats"][:, :, :2].copy()}),
        }[kind]
    )
    if bucket:
        run_store.local_path = lambda key: None  # type: ignore[method-assign, assignment]
    assert curves(run_store, "loss").rows == 12_000


STRANGE = (
    '{"step": 1, "loss": 1e308}\n{"step": 2, "loss": -1e308}\n{"step": 3, "loss": "x"}\n'
    '{"step": "4", "loss": 1}\nnot json\n[1]\n{"step": 5, "loss": 1' + "0" * 400 + "}\n"
    '{"step": 6, "loss": Infinity}\n{"step": null, "loss": 2}\n{"step": 7, "loss": NaN}\n'
    '{"step": 8, "loss": true, "deep": ' + "[" * 50_000 + "]" * 50_000 + "}\n"
    '{"step": 9, "loss": 3, "\\ud800": 1}\n\xff\x00\n{"step": 10, "lo'
)


def test_strange_rows_leave_the_others(run_store: Store) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft")
    (writer.folder / "metrics.jsonl").write_text(STRANGE)
    found = curves(run_store, "loss")
    loss = dict(zip(found.x.tolist(), listed_numbers(found.series["loss"].y), strict=True))
    assert {step: y for step, y in loss.items() if y is not None} == {1: 1e308, 2: -1e308, 9: 3.0}
    assert "NaN" not in json.dumps(found.as_json())
    json.dumps(found.as_json(), allow_nan=False)
    thinned = curves(run_store, "loss", points=2)
    assert np.nanmax(thinned.series["loss"].high) == 1e308


@pytest.mark.parametrize(
    "text", ["", "\n\n", "[]\n" * 10, "{}\n", '{"loss": 1}\n', "\0" * 5000 + "\n", "x" * 100]
)
def test_a_file_without_rows(run_store: Store, text: str) -> None:
    writer = begin_task(run_store, RUN, "sft", "sft")
    (writer.folder / "metrics.jsonl").write_text(text)
    found = curves(run_store)
    assert (len(found.x), found.rows) == (0, 0)
    (writer.folder / "metrics.jsonl").unlink()
    assert len(curves(run_store, "loss").x) == 0


def test_flat_and_odd_pieces_read_alike() -> None:
    flat = b'{"a":1,"step":1}\n{"a":2.5,"step":2}\n{"a":null,"step":3}\n'
    odd = flat.replace(b'"step":3}', b'"step":3,"note":["x"]}')
    for piece in (flat, odd):
        found = columns(piece)
        assert found["step"].tolist() == [1, 2, 3]
        assert found["a"][:2].tolist() == [1, 2.5]
        assert math.isnan(found["a"][2])
        assert set(columns(piece, frozenset({"step"}))) == {"step"}


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    endless = (b"x" * 2**20 for _ in range(40))
    assert sum(map(len, pieces(endless))) < 2**20
    parts = [b'{"step":', b"1}\n{", b'"step":2}\n']
    assert b"".join(pieces(parts)) == b'{"step":1}\n{"step":2}\n'


def test_numbers_in_seven_digits() -> None:
    values = np.array([1 / 3, 1e-12 / 3, 0.0, -1e308, math.nan, math.inf, 123456789.0])
    assert listed_numbers(values) == [
        0.3333333, 3.333333e-13, 0.0, -1e308, None, None, 123456800.0,
    ]  # fmt: skip


def test_curves_of_a_bucket(run_store: Store, tmp_path: Path) -> None:
    """What a store without local files gives is read through its chunks, and remembered."""
    begin_task(run_store, RUN, "sft", "sft", [row(step) for step in range(1, 11)])
    store = open_store(tmp_path / "store")
    read: list[str] = []
    chunks = store.chunks

    def counted(key: str) -> object:
        read.append(key)
        return chunks(key)

    view = load_view(store, RUN)
    task = view.task("sft")
    assert task is not None
    store.local_path = lambda key: None  # type: ignore[method-assign, assignment]
    store.chunks = counted  # type: ignore[method-assign, assignment]
    memory = CurveMemory()
    for _ in range(3):
        found = read_curves(store, view, task, ["loss"], memory=memory)
        assert found.x.tolist() == list(range(1, 11))
    assert len(read) == 1
