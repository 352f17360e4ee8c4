"""`vila serve` as a process: it verifies what it loads, follows an alias, and ends in order."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers import CHAT, ROOT, Process, user

from components.registry import Registry, Version
from tests.eval.tiny import write_tiny_vila
from vila_core.store import Store, open_store, publish


def register(store: Store, folder: Path, run_id: str) -> Version:
    artifact = publish(store, folder)
    return Registry(store).register(Version("tiny", 0, artifact, run_id, "key", {}, {}, {}))


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for one in started:
        one.close()


def start(processes: list[Process], *words: object, cwd: Path, **env: str) -> Process:
    home = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(cwd / "config"), "OMP_NUM_THREADS": "1"}
    one = Process(*words, cwd=cwd, env={**home, **env})
    processes.append(one)
    return one


def chat(one: Process, seconds: float = 240, **parameters: object) -> httpx.Response:
    body = {"model": "tiny", "messages": [user("Hello")], "max_tokens": 5, **parameters}
    return httpx.post(f"{one.url}{CHAT}", json=body, timeout=seconds)


def metric(one: Process, name: str) -> float:
    text = httpx.get(f"{one.url}/metrics").text
    return float(next(row for row in text.splitlines() if row.startswith(f"{name} ")).split()[-1])


@pytest.mark.slow
def test_a_version_is_served_reloaded_and_ended(
    tiny: Path, tmp_path: Path, processes: list[Process]
) -> None:
    store = open_store(tmp_path / "store")
    registry = Registry(store)
    register(store, tiny, "r1")
    registry.move("tiny", "champion", 1, why="the first")
    one = start(processes, "tiny@champion", "--store", tmp_path / "store", cwd=tmp_path)
    assert httpx.get(f"{one.url}/livez").status_code == 200
    one.until_ready()
    assert chat(one).json()["model"] == "tiny@1"
    for name in ("tiny@champion", "tiny@1", "tiny"):
        assert chat(one, model=name).status_code == 200
    assert chat(one, model="tiny@2").status_code == 404

    register(store, write_tiny_vila(tmp_path / "second", projector="mlp2x_gelu"), "r2")
    registry.move("tiny", "champion", 2, why="better")
    one.process.send_signal(signal.SIGHUP)
    one.until_said("tiny@champion (tiny@2) is loaded")
    assert chat(one).json()["model"] == "tiny@2"
    assert chat(one, model="tiny@1").status_code == 404
    (listed,) = httpx.get(f"{one.url}/v1/models").json()["data"]
    assert (listed["root"], listed["stale"]) == ("tiny@2", False)
    assert metric(one, "vila_serve_reloads_total") == 1

    code, err = one.end(signal.SIGTERM)
    assert code == 0, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_alias_is_followed_without_a_gap(
    tiny: Path, tmp_path: Path, processes: list[Process]
) -> None:
    store = open_store(tmp_path / "store")
    registry = Registry(store)
    register(store, tiny, "r1")
    registry.move("tiny", "champion", 1, why="the first")
    words = ("tiny@champion", "--store", tmp_path / "store", "--follow", "1")
    one = start(processes, *words, cwd=tmp_path)
    one.until_ready()
    found: list[httpx.Response] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            found.append(chat(one, max_tokens=40))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    register(store, write_tiny_vila(tmp_path / "second", projector="mlp2x_gelu"), "r2")
    registry.move("tiny", "champion", 2, why="better")
    until = time.monotonic() + 240
    while not found or found[-1].json()["model"] != "tiny@2":
        assert time.monotonic() < until
        time.sleep(0.05)
    # A version that can't be loaded changes nothing.
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")
    register(store, tmp_path / "none", "r3")
    registry.move("tiny", "champion", 3, why="a mistake")
    one.until_said("tiny@3 can't be loaded, tiny@2 is still served")
    (listed,) = httpx.get(f"{one.url}/v1/models").json()["data"]
    assert (listed["root"], listed["meant_now"], listed["stale"]) == ("tiny@2", "tiny@3", True)
    assert metric(one, "vila_serve_stale") == 1
    over.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in found} == {200}
    assert {answer.json()["model"] for answer in found} == {"tiny@1", "tiny@2"}
    assert one.end(signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_answers_under_way_are_finished_at_the_end(
    tiny: Path, tmp_path: Path, processes: list[Process]
) -> None:
    one = start(processes, tiny, "--grace", "200", cwd=tmp_path)
    one.until_ready()
    found: list[httpx.Response] = []
    body = {"temperature": 2.0, "seed": 1, "max_tokens": 480}

    def ask(seed: int) -> None:
        found.append(chat(one, **{**body, "seed": seed}))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 240
    while metric(one, "vila_serve_running") < 4:
        if len(found) == 4:
            break  # the machine is faster than this test
        assert time.monotonic() < until
        time.sleep(0.01)
    code, err = one.end(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert code == 0, err
    assert [answer.status_code for answer in found] == [200] * 4
    assert "Traceback" not in err
    with pytest.raises(httpx.ConnectError):
        chat(one)


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", "serve", *map(str, words)],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": "/nowhere"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_mistakes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, code, said in (
        (("mini@champion",), 2, "no model 'mini' is registered"),
        (("empty", "--port", "0"), 2, "is not a VILA model folder"),
        (("empty", "--host", "0.0.0.0"), 2, "needs --tokens FILE; fix: vila dashboard token"),
        (("empty", "--device", "tpu"), 2, "--device tpu: is not known; use auto, cpu, cuda"),
        (("empty", "--template", "x"), 2, "--template x: is not known"),
        (("empty", "--allow-image-urls", "http://a"), 2, "a host is needed"),
        (("empty", "--port", "70000"), 2, "less than or equal to 65535"),
    ):
        failed = run(*words, cwd=tmp_path)
        assert failed.returncode == code, failed.stderr
        assert said in failed.stderr
        assert "Traceback" not in failed.stderr
