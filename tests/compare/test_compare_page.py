"""The page of comparing: what it shows of whole runs, and that a problem stays where it belongs."""

from __future__ import annotations

import time

import pytest
from starlette.testclient import TestClient
from told import Told

from vila_core.store import Store
from vila_ops.web.app import create_app

LOCAL = "http://127.0.0.1:8080"


def client_of(store: Store) -> TestClient:
    return TestClient(create_app(store), base_url=LOCAL, follow_redirects=False)


def ready(client: TestClient, path: str) -> str:
    """The page when nothing is being computed any more."""
    for _ in range(100):
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        if "data-pending" not in answer.text:
            return answer.text
        time.sleep(0.05)
    raise AssertionError("it never became ready")


@pytest.fixture
def path(told: Told) -> str:
    return f"/compare?run={told.story.first.run_id}&run={told.story.second.run_id}"


def test_two_runs_show_all_sections(told: Told, path: str) -> None:
    text = ready(client_of(told.store), path)
    assert "Compare 2 runs" in text
    assert "Scores against A" in text
    assert 'data-curves="/api/v1/compare/chart?' in text
    assert "train.seed" in text
    assert "questions that A and B were both asked" in text
    assert f"/samples/{told.story.first.data.sha256}/" in text


def test_names_become_ids_in_the_address(told: Told, path: str) -> None:
    answer = client_of(told.store).get("/compare?run=story-1129-10&run=last")
    assert answer.status_code == 303
    assert answer.headers["location"] == path


def test_without_runs_there_is_a_choice(told: Told) -> None:
    client = client_of(told.store)
    client.app.state.watch.list_once()  # type: ignore[attr-defined]
    answer = client.get("/compare")
    assert answer.status_code == 200
    assert f'value="{told.story.second.run_id}"' in answer.text
