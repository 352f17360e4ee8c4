"""The index of runs: right whoever changes a run, quick because it reads little."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from click.testing import Result
from made_runs import begin_task, drive_elsewhere, write_end, write_run
from typer.testing import CliRunner

from components.runtime import record
from components.runtime.record import RunRecord, begin_driver, end_run
from vila_core.errors import StoreError, UserError
from vila_core.store import FileStore, Store, open_store
from vila_ops import run_index
from vila_ops.cli.main import app
from vila_ops.run_index import KEY, RunIndex
from vila_ops.runs import find_run

OLD = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture(autouse=True)
def every_news_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "WORTH_WRITING", 1)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(tmp_path / "store")
    return request.getfixturevalue("s3_store")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each record was read."""
    counted: Counter[str] = Counter()
    load = RunRecord.load

    def counting(store: Store, run_id: str) -> RunRecord:
        counted[run_id] += 1
        return load(store, run_id)

    monkeypatch.setattr(RunRecord, "load", counting)
    return counted


def listed(store: Store, **question: object) -> dict[str, str]:
    """What a new process lists, and leaves in the index."""
    index = RunIndex(store)
    found = index.list(**question)  # type: ignore[arg-type]
    index.write()
    return {row.run_id: row.status for row in found.rows}


def truth(store: Store) -> dict[str, str]:
    return {run_id: RunRecord.load(store, run_id).status for run_id in store.children("runs")}


def write_all_kinds(store: Store) -> None:
    for status in ("succeeded", "failed", "stopped"):
        write_run(store, f"{status}-1129-101010-aaaa", created_at=OLD)
        write_end(store, f"{status}-1129-101010-aaaa", status)
    write_run(store, "running-1129-101010-aaaa")
    begin_driver(store, "running-1129-101010-aaaa")
    write_run(store, "interrupted-1129-101010-aaaa", created_at=OLD)
    drive_elsewhere(store, "interrupted-1129-101010-aaaa", started_at=OLD)


def test_rows_are_what_the_records_say(store: Store, loads: Counter[str]) -> None:
    write_all_kinds(store)
    expected = truth(store)
    assert set(expected.values()) == {"succeeded", "failed", "stopped", "running", "interrupted"}
    assert listed(store) == expected
    loads.clear()
    assert listed(store) == expected
    assert dict(loads) == {"running-1129-101010-aaaa": 1}, "the rest came from the index"
    (row,) = RunIndex(store).list(name="failed").rows
    assert row.recipe == "toy"
    assert [(task.name, task.status) for task in row.tasks] == [
        ("prepare", "succeeded"),
        ("sft", "failed"),
        ("evaluate", "not run"),
    ]


def test_a_resumed_run_is_never_shown_as_it_was(store: Store) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(store, run, created_at=OLD)
    write_end(store, run, "failed")
    assert listed(store) == {run: "failed"}
    begin_driver(store, run)
    assert listed(store) == {run: "running"}
    assert listed(store, statuses={"failed"}) == {}
    assert listed(store, statuses={"running"}) == {run: "running"}
    end_run(store, run, "failed", "again")
    assert RunIndex(store).list().rows[0].error == "again"
    begin_driver(store, run)
    end_run(store, run, "succeeded")
    assert listed(store) == {run: "succeeded"}


def test_a_resume_between_two_looks_of_one_listing_is_seen_next_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(store, run, created_at=OLD)
    write_end(store, run, "failed")
    load = RunRecord.load

    def slow(opened: Store, run_id: str) -> RunRecord:
        found = load(opened, run_id)
        begin_driver(opened, run_id)  # while the listing still holds what it read
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RunRecord, "load", slow)
        assert listed(store) == {run: "failed"}
    assert listed(store) == {run: "running"}


def test_a_silent_driver_elsewhere_that_speaks_again(store: Store, loads: Counter[str]) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(store, run, created_at=OLD)
    drive_elsewhere(store, run, started_at=OLD)
    assert listed(store) == listed(store) == {run: "interrupted"}
    assert loads[run] == 1
    begin_task(store, run, "sft", "sft").progress({"done": 1})
    assert listed(store) == {run: "running"}


def test_a_machine_does_not_believe_others_about_its_own_processes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "toy-1129-101010-aaaa"
    write_run(store, run, created_at=OLD)
    here = record.platform.node()
    driver = {**record.identity(), "started_at": OLD}  # this very process, silent for long
    store.write(f"runs/{run}/driver.json", json.dumps(driver).encode())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("platform.node", lambda: here + "-y")
        assert listed(store) == {run: "interrupted"}
    assert listed(store) == {run: "running"}


def test_runs_come_and_go(store: Store) -> None:
    write_run(store, "a-1129-101010-aaaa", created_at=OLD)
    write_end(store, "a-1129-101010-aaaa", "succeeded")
    assert list(listed(store)) == ["a-1129-101010-aaaa"]
    write_run(store, "b-1129-101011-aaaa", created_at="2026-01-02T00:00:00.000+00:00")
    write_end(store, "b-1129-101011-aaaa", "succeeded")
    assert list(listed(store)) == ["b-1129-101011-aaaa", "a-1129-101010-aaaa"]
    for key in list(store.list("runs/a-1129-101010-aaaa/")):
        store.delete(key)
    if isinstance(store, FileStore):
        os.rename(store.root / "runs" / "a-1129-101010-aaaa", store.root / "gone")
    assert list(listed(store)) == ["b-1129-101011-aaaa"]


@pytest.mark.parametrize(
    "damage",
    [
        None,
        b"",
        b"no gzip",
        gzip.compress(b"[]"),
        gzip.compress(b'{"run_id": "x", "tasks": [], "proof": {"final": true}}'),
        gzip.compress(b'{"run_id": "x"}\n1\n'),
        gzip.compress(b'{"run_id": "x"}\n')[:-9],
    ],
    ids=["deleted", "empty", "text", "list", "fields", "number", "cut"],
)
def test_a_lost_or_damaged_index_is_made_again(
    store: Store, loads: Counter[str], damage: bytes | None
) -> None:
    write_all_kinds(store)
    listed(store)
    if damage is None:
        store.delete(KEY)
    else:
        store.write(KEY, damage)
    assert listed(store) == truth(store)
    loads.clear()
    listed(store)
    assert len(loads) == 1, "only the running one"


def test_a_foreign_record_hides_no_other(store: Store) -> None:
    write_run(store, "good-1129-101010-aaaa", created_at=OLD)
    store.write("runs/half/run.json", b'{"name": "ha')
    store.write("runs/foreign/run.json", b'{"experiment": 7}')
    store.write("runs/empty/other.json", b"{}")
    found = RunIndex(store).list()
    assert [row.run_id for row in found.rows] == ["good-1129-101010-aaaa"]
    assert set(found.unreadable) == {"half", "foreign"}


def test_newest_first_a_limit_and_filters(store: Store) -> None:
    for number in range(12):
        run = f"run-1129-1010{number:02d}-aaaa"
        created = f"2026-01-{number + 1:02d}T00:00:00.000+00:00"
        write_run(store, run, created_at=created, recipe="odd" if number % 2 else "even")
        write_end(store, run, "failed" if number % 3 == 0 else "succeeded", attempts=False)
    found = RunIndex(store).list(limit=3)
    assert [row.run_id[9:15] for row in found.rows] == ["101011", "101010", "101009"]
    assert found.found == 12
    found = RunIndex(store).list(limit=2, statuses={"failed"}, name="EVEN")
    assert [row.run_id[9:15] for row in found.rows] == ["101006", "101000"]
    assert found.found == 2


def test_two_writers_of_the_index(store: Store) -> None:
    write_run(store, "a-1129-101010-aaaa", created_at=OLD)
    write_end(store, "a-1129-101010-aaaa", "succeeded")
    first, second = RunIndex(store), RunIndex(store)
    first.list()
    write_run(store, "b-1129-101010-aaaa", created_at=OLD)
    write_end(store, "b-1129-101010-aaaa", "succeeded")
    second.list()
    second.write()
    first.write()  # loses: it saw an older index
    lines = gzip.decompress(store.read(KEY)).splitlines()
    assert {json.loads(line)["run_id"] for line in lines} == {
        "a-1129-101010-aaaa",
        "b-1129-101010-aaaa",
    }
    assert len(listed(store)) == 2


def test_a_store_that_may_only_be_read_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "store")
    write_all_kinds(store)

    def refuse(*_: object, **__: object) -> str:
        raise StoreError("read-only")

    monkeypatch.setattr(store, "swap", refuse)
    assert listed(store) == truth(store)
    assert not store.exists(KEY)


def test_find_run_reads_no_record_that_the_index_knows(store: Store, loads: Counter[str]) -> None:
    write_all_kinds(store)
    listed(store)
    loads.clear()
    newest = "running-1129-101010-aaaa"
    assert find_run(store, newest) == newest
    assert not loads
    assert find_run(store, "failed") == "failed-1129-101010-aaaa"
    assert find_run(store, "succ") == "succeeded-1129-101010-aaaa"
    assert find_run(store, "last") == newest
    assert set(loads) == {newest}, "only what runs is not in the index"
    with pytest.raises(UserError, match="did you mean 'stopped'"):
        find_run(store, "stoped")
    for text in ("..", "a/b", "", "\0"):
        with pytest.raises(UserError):
            find_run(store, text)


def test_vila_runs(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for number in range(25):
        run = f"toy-1129-1010{number:02d}-aaaa"
        write_run(store, run, created_at=f"2026-01-{number + 1:02d}T00:00:00.000+00:00")
        write_end(store, run, "failed" if number == 3 else "succeeded", attempts=False)
    store.write("runs/foreign/run.json", b"{}")

    def vila(*words: str) -> Result:
        return CliRunner().invoke(app, ["runs", "--store", store.uri, *words])

    shown = vila()
    assert shown.stdout.count("toy-1129") == 20
    assert "the newest 20 of 25; all: vila runs --limit 0" in shown.stderr
    assert "runs/foreign: can't be read" in shown.stderr
    assert vila("--limit", "0").stdout.count("toy-1129") == 25
    assert len(json.loads(vila("--json").stdout)) == 25
    assert vila("--status", "failed").stdout.count("toy-1129") == 1
    assert "no such runs" in vila("--name", "else").stdout
    assert vila("--status", "odd").exit_code == 2
