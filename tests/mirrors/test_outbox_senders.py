"""Who delivers: a promotion for a moment, `vila registry sync`, a dashboard's thread."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from news import registered, settings, write
from receivers import receiving
from typer.testing import CliRunner

from vila_core.errors import StoreError
from vila_core.store import Store
from vila_ops.cli.main import app
from vila_ops.registry import outbox

pytestmark = pytest.mark.usefixtures("secret")


def test_a_promotion_neither_waits_nor_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    entry = registry.move("mini", "champion", 1, why="x")
    broken = tmp_path / "registry.yaml"
    broken.write_text("webhooks: [no")
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(broken))
    outbox.enqueue(store, "mini", entry)
    assert outbox.attempt(store, seconds=1).sent == []
    with receiving("sleep") as receiver:
        write(broken, settings(receiver.url, timeout_s=30))
        outbox.enqueue(store, "mini", entry)
        begun = time.monotonic()
        outbox.attempt(store, seconds=0.5)
        assert time.monotonic() - begun < 8


def test_right_after_a_promotion_only_quick_targets_are_tried(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    entry = registry.move("mini", "champion", 1, why="x")
    with receiving() as receiver:
        config = settings(receiver.url).model_dump(mode="json", exclude_none=True)
        config["huggingface"] = {"hub": {"repo": "team/{model}", "endpoint": "http://127.0.0.1:9"}}
        path = tmp_path / "registry.yaml"
        path.write_text(json.dumps(config))
        monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
        outbox.enqueue(store, "mini", entry)
        assert outbox.attempt(store, seconds=5).sent == ["hook-0 mini 1"]
    states = {s.target: s.state for s in outbox.statuses(store, outbox.read_settings())}
    assert states == {"hook-0": "up to date", "hub": "pending"}


def test_a_store_that_fails_does_not_fail_a_promotion(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    entry = registry.move("mini", "champion", 1, why="x")
    path = tmp_path / "registry.yaml"
    write(path, settings("http://127.0.0.1:9/"))
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))

    def gone(*_: Any, **__: Any) -> Any:
        raise StoreError("the store is gone")

    for name in ("exists", "swap", "children"):
        monkeypatch.setattr(type(store), name, gone)
    outbox.enqueue(store, "mini", entry)
    assert outbox.attempt(store, seconds=1).sent == []


def test_the_command_delivers_and_tells(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--store", str(store.uri)]
    nothing = CliRunner().invoke(app, ["registry", "sync", *place])
    assert nothing.exit_code == 0
    assert "VILA_REGISTRY_CONFIG" in nothing.output
    registry = registered(store)
    path = tmp_path / "registry.yaml"
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
    with receiving(500, 200) as receiver:
        write(path, settings(receiver.url))
        outbox.enqueue(store, "mini", registry.move("mini", "champion", 1, why="x"))
        shown = CliRunner().invoke(app, ["registry", "sync", "--status", "--json", *place])
        assert json.loads(shown.output)["targets"][0]["state"] == "pending"
        assert not receiver.bodies
        failed = CliRunner().invoke(app, ["registry", "sync", *place])
        assert failed.exit_code == 1
        assert "failed hook-0 mini 1: the receiver answered 500" in failed.output
        done = CliRunner().invoke(app, ["registry", "sync", "--now", *place])
        assert done.exit_code == 0, done.output
        assert "delivered hook-0 mini 1" in done.output
        assert "up to date" in done.output


def test_the_thread_of_a_dashboard_delivers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registered(store)
    path = tmp_path / "registry.yaml"
    monkeypatch.setenv("VILA_REGISTRY_CONFIG", str(path))
    stop = threading.Event()
    with receiving() as receiver:
        write(path, settings(receiver.url))
        outbox.enqueue(store, "mini", registry.move("mini", "champion", 1, why="x"))
        thread = threading.Thread(target=outbox.serve, args=(store, stop), kwargs={"every": 0.05})
        thread.start()
        end = time.monotonic() + 5
        while not receiver.bodies and time.monotonic() < end:
            time.sleep(0.02)
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
    assert receiver.seqs == [1]
