"""`vila show` and the tokens that carry loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vila_core.data.encode import Counts
from vila_core.data.supervision import Supervision
from vila_core.errors import Damaged, NotFound
from vila_core.jsonio import dumps
from vila_core.store import FileStore, publish, read_file
from vila_ops.cli import supervised
from vila_ops.cli.render import print_run
from vila_ops.view import RunView, TaskView


def report(scale: int) -> Supervision:
    found = Supervision("vicuna_v1")
    found.keep("conversation", Counts(text_tokens=200 * scale, supervised=50 * scale, images=1))
    found.keep("text-only", Counts(text_tokens=1000, supervised=1000, images=0))
    found.masked("conversation", "llava/00000/000007")
    found.over("text-only", "llava/00000/000008")
    return found


def run_with(store: FileStore, folder: Path, corpora: dict[str, Any]) -> RunView:
    data = folder / "data"
    data.mkdir()
    (data / "report.json").write_text(dumps({"corpora": corpora}))
    (data / "other").write_text("x")
    artifact = {"name": "data", **publish(store, data).as_json()}
    task = TaskView("prepare-all", "prepare", "succeeded", artifacts=(artifact,))
    waiting = TaskView("prepare-more", "prepare", "running")
    tasks = (task, waiting, TaskView("align", "align", "waiting"))
    return RunView("r", "r", "r", "inline", "running", "2026", 1.0, "c", "d", {}, tasks)


def shown(store: FileStore, run: RunView) -> list[str]:
    console = Console(width=80, highlight=False)
    with console.capture() as captured:
        for table in supervised.tables(supervised.reports(store, run)):
            console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_table_fits_into_80_columns_with_nothing_cut_off(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    name = "a-corpus-with-a-long-name"
    corpora = {
        name: {"supervision": report(10**9).to_json()},
        "llava": {"supervision": report(1).to_json()},
        "of-an-older-version": {"kept": 3},
    }
    run = run_with(store, tmp_path, corpora)
    lines = shown(store, run)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "prepare-all: text tokens that carry loss (image places are not counted)"
    assert lines[1].split() == [
        "corpus", "kind", "samples", "tokens", "supervised", "share", "masked", "over",
    ]  # fmt: skip
    rows = [line.split() for line in lines[2:]]
    assert "".join(row[0] for row in rows).startswith(name), "folded, not cut"
    assert rows[0][1:] == ["conversation", "1", "200", "B", "50", "B", "25.0", "%", "1", "0"]
    assert rows[-2:] == [
        ["llava", "conversation", "1", "200", "50", "25.0", "%", "1", "0"],
        ["llava", "text-only", "1", "1,000", "1,000", "100.0", "%", "0", "1"],
    ]
    assert supervised.reports(store, run)["prepare-all"]["llava"] == report(1).to_json()


def test_it_stands_between_tasks_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FileStore(tmp_path / "store")
    run = run_with(store, tmp_path, {"llava": {"supervision": report(1).to_json()}})
    print_run(run, supervised.tables(supervised.reports(store, run)))
    out = capsys.readouterr().out
    assert out.index("time") < out.index("prepare-all: text tokens")


def test_data_that_are_gone_or_damaged_leave_the_table_out(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    run = run_with(store, tmp_path, {"llava": {"supervision": report(1).to_json()}})
    (ref,) = (one for task in run.tasks for one in task.artifacts)
    path = store.local_path(f"artifacts/{ref['sha256']}/report.json")
    path.chmod(0o644)
    path.write_text(dumps({"corpora": {}}))
    assert shown(store, run) == []
    path.unlink()
    assert shown(store, run) == []


def test_one_file_of_an_artifact_is_read_and_verified(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    ref = publish(store, folder)
    assert read_file(store, ref, "a") == b"a"
    with pytest.raises(NotFound, match="no file c"):
        read_file(store, ref, "c")
    path = store.local_path(f"artifacts/{ref.sha256}/b")
    path.chmod(0o644)
    path.write_text("c")
    assert read_file(store, ref, "a") == b"a"
    with pytest.raises(Damaged, match="/b: does not match"):
        read_file(store, ref, "b")
