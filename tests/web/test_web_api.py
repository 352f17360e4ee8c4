"""The JSON of runs, a run, its curves, log and changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dashboards import client_of, refresh
from made_runs import begin_task, write_end, write_run
from starlette.testclient import TestClient

from components.runtime.record import begin_driver
from vila_core.store import Store

RUN = "toy-1129-101010-aaaa"
V1 = "/api/v1"


@pytest.fixture
def client(folder_store: Store) -> TestClient:
    write_run(folder_store, RUN, config={"sft": {"api_key": "hunter2-hunter2"}})
    begin_driver(folder_store, RUN)
    rows = [{"step": step, "loss": 3.0 / step, "lr": 0.1} for step in range(1, 2001)]
    rows.append({"step": 2001, "loss": float("nan"), "lr": 0.1})
    begin_task(folder_store, RUN, "sft", "sft", rows, log="\x1b[31mred\x1b[0m\n 1%\r 2%\r done\r\n")
    return client_of(folder_store)


def test_a_run_and_the_list(client: TestClient, folder_store: Store) -> None:
    found = client.get(f"{V1}/runs").json()
    assert [run["run_id"] for run in found["runs"]] == [RUN]
    assert found["total"] == 1
    assert client.get(f"{V1}/runs?status=failed").json()["runs"] == []
    assert client.get(f"{V1}/runs?q=nothing").json()["found"] == 0
    detail = client.get(f"{V1}/runs/{RUN}").json()
    assert detail["status"] == "running"
    assert [task["status"] for task in detail["tasks"]] == ["waiting", "running", "waiting"]
    assert "hunter2" not in json.dumps(detail)
    write_end(folder_store, RUN, "succeeded")
    assert client.get(f"{V1}/runs/{RUN}").json()["status"] == "succeeded", "at once"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("runs/none", 404),
        ("runs/%00", 404),
        ("runs/%2e%2e%2fx", 404),
        (f"runs/{'x' * 300}", 422),
        (f"runs/{RUN}/curves?task=none", 404),
        (f"runs/{RUN}/curves", 422),
        (f"runs/{RUN}/curves?task=sft&points=0", 422),
        (f"runs/{RUN}/curves?task=sft&axis=colour", 422),
        (f"runs/{RUN}/log?task=none", 404),
        ("runs?page=0", 422),
        ("runs?sort=colour", 422),
        ("runs?q=a/b%3Ec", 422),
        ("runs?status=odd", 422),
        ("changes?run=none", 404),
        ("nothing", 404),
    ],
)
def test_what_is_not_there_or_not_valid_is_a_problem(
    client: TestClient, path: str, code: int
) -> None:
    answer = client.get(f"{V1}/{path}")
    assert answer.status_code == code, answer.text
    assert set(answer.json()) == {"error", "detail"}


def test_curves(client: TestClient) -> None:
    found = client.get(f"{V1}/runs/{RUN}/curves?task=sft&key=loss&points=100").json()
    assert found["x_label"] == "step"
    assert found["unit"] == "nats per supervised token"
    assert (len(found["x"]), found["rows"]) == (100, 2001)
    (loss,) = found["series"]
    assert loss["high"][0] == 3.0
    assert len(loss["y"]) == 100
    assert found["names"] == ["loss", "lr"]
    both = client.get(f"{V1}/runs/{RUN}/curves?task=sft").json()
    assert [one["label"] for one in both["series"]] == ["loss", "lr"]
    assert client.get(f"{V1}/runs/{RUN}/curves?task=prepare").json()["x"] == []


def test_a_log_is_tidied(client: TestClient) -> None:
    found = client.get(f"{V1}/runs/{RUN}/log?task=sft").json()
    assert found == {"task": "sft", "text": "red\n done\n", "cut": False}


def test_secrets_in_a_log_are_masked(
    client: TestClient, folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open-sesame")
    begin_task(folder_store, RUN, "prepare", "prepare", log="login sesame-open-sesame\n")
    for path in (f"{V1}/runs/{RUN}/log?task=prepare", f"/runs/{RUN}?task=prepare"):
        text = client.get(path).text
        assert "login" in text
        assert "sesame" not in text


def test_changes_are_told_by_an_etag(client: TestClient, folder_store: Store) -> None:
    first = client.get(f"{V1}/changes?run={RUN}")
    tag = {"If-None-Match": first.headers["etag"]}
    again = client.get(f"{V1}/changes?run={RUN}", headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    begin_task(folder_store, RUN, "prepare", "prepare")
    assert client.get(f"{V1}/changes?run={RUN}", headers=tag).status_code == 200
    runs = client.get(f"{V1}/changes").headers["etag"]
    refresh(client.app)  # type: ignore[arg-type]
    assert client.get(f"{V1}/changes", headers={"If-None-Match": runs}).status_code == 304
    write_run(folder_store, "new-1129-101011-aaaa")
    refresh(client.app)  # type: ignore[arg-type]
    assert client.get(f"{V1}/changes", headers={"If-None-Match": runs}).status_code == 200


def test_a_store_that_goes_away_is_a_problem_and_comes_back(
    client: TestClient, tmp_path: Path
) -> None:
    assert client.get(f"{V1}/runs/{RUN}").status_code == 200
    (tmp_path / "store").rename(tmp_path / "away")
    for path in (f"runs/{RUN}", f"runs/{RUN}/curves?task=sft", f"changes?run={RUN}"):
        answer = client.get(f"{V1}/{path}")
        assert answer.status_code == 503, path
        assert "mount or restore" in answer.json()["detail"]
    (tmp_path / "away").rename(tmp_path / "store")
    assert client.get(f"{V1}/runs/{RUN}").status_code == 200


@pytest.mark.parametrize(
    "change", [{"name": "\ud800"}, {"recipe": 7}, {"config": []}, {"tasks": [["a"]]}, {"config": 0}]
)
def test_foreign_records_are_problems(
    client: TestClient, folder_store: Store, change: dict[str, object]
) -> None:
    record = json.loads(folder_store.read(f"runs/{RUN}/run.json"))
    text = json.dumps({**record, "run_id": "odd", **change})
    folder_store.write("runs/odd/run.json", text.encode())
    for path in ("runs/odd", "changes?run=odd", "runs/odd/curves?task=sft"):
        answer = client.get(f"{V1}/{path}")
        assert answer.status_code in (200, 503, 404), answer.text
        if answer.status_code != 200:
            assert set(answer.json()) == {"error", "detail"}
