"""The page of comparing: what it shows of whole runs, and that a problem stays where it belongs."""

from __future__ import annotations

import io
import re
import shutil
import time
from pathlib import Path

import pytest
from evaluated import answers, client_of, make_run, path_of, rows_of, run_id
from PIL import Image
from starlette.testclient import TestClient
from told import Told

from vila_core.store import Store, open_store

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"


def ready(client: TestClient, path: str) -> str:
    """The page when nothing is being computed any more."""
    for _ in range(200):
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        if "data-pending" not in answer.text:
            return answer.text
        time.sleep(0.05)
    raise AssertionError("it never became ready")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def path(told: Told) -> str:
    return path_of(told.story.first.run_id, told.story.second.run_id)


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


def test_verdicts_are_words(store: Store) -> None:
    first = make_run(store, 1, answers([0.0] * 30 + [1.0] * 10))
    second = make_run(store, 2, answers([1.0] * 40))
    text = ready(client_of(store), path_of(first, second))
    assert re.search(r"▲</span> better", text)
    assert "+75.0" in text
    assert re.search(r"▼</span> worse", ready(client_of(store), path_of(first, second, ref=second)))


def test_all_state_is_in_the_address(told: Told, path: str) -> None:
    state = {
        "ref": told.story.second.run_id,
        "task": "pretrain",
        "metric": "lr",
        "bands": "range",
        "smooth": "0.6",
        "log": "1",
        "axis": "tokens",
        "settings": "all",
        "benchmark": "miniature_caption@0",
        "who": "answers",
    }
    text = ready(client_of(told.store), path + "".join(f"&{k}={v}" for k, v in state.items()))
    assert "Scores against B" in text
    assert "task=pretrain&amp;metric=lr&amp;bands=range" in text
    assert 'data-axis="tokens" data-log data-smooth="0.6"' in text
    assert "only what differs</a>" in text
    assert "<option selected>miniature_caption@0" in text
    link = re.search(r'href="(/compare\?[^"]+ref=[^"]+)#settings"', text)
    assert link is not None
    for name, value in state.items():
        if name != "settings":
            assert f"{name}={value}" in link[1]


def test_values_that_mean_nothing_are_as_if_not_there(told: Told, path: str) -> None:
    bad = "&ref=x&task=x&metric=x&bands=x&smooth=nan&axis=x&who=x&other=x&page=-1&benchmark=x@y"
    text = ready(client_of(told.store), path + bad)
    assert "Scores against A" in text
    assert 'data-axis="step"' in text


def test_hostile_text_is_text(store: Store) -> None:
    first = make_run(
        store,
        1,
        answers([0.0] * 12, answer=HOSTILE, reference=HOSTILE, type=HOSTILE, unit=HOSTILE),
        [{"step": 1, HOSTILE: 1.0, "loss": 1.0}],
        config={"sft": {HOSTILE: HOSTILE}},
        recipe=HOSTILE,
    )
    second = make_run(store, 2, answers([1.0] * 12), [{"step": 1, HOSTILE: 1.0}])
    client = client_of(store)
    for path in (
        path_of(first, second) + "&metric=*",
        path_of(first, second, run=HOSTILE.replace("&", "")),
        path_of(first, second, ref=HOSTILE, benchmark=HOSTILE),
    ):
        answer = client.get(path.replace("#", ""), follow_redirects=True)
        assert answer.status_code == 200
        text = ready(client, str(answer.url))
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    drawn = client.get("/compare/chart.svg", params={"run": first, "metric": HOSTILE})
    assert drawn.status_code == 200
    assert "<script>alert" not in drawn.text
    assert "<img" not in drawn.text


def test_a_problem_leaves_the_rest(store: Store) -> None:
    first, second = (make_run(store, n, answers([0.0, 1.0]), rows_of([2, 1])) for n in (1, 2))
    store.write(f"runs/{run_id(3)}/run.json", b"{")
    text = ready(client_of(store), path_of(first, second, run_id(3)))
    assert f"<strong>{run_id(3)}</strong> is left out" in text
    assert "Scores against A" in text


def test_a_run_that_is_deleted_while_the_page_is_open(store: Store) -> None:
    first, second = (make_run(store, n, answers([0.0, 1.0]), rows_of([2, 1])) for n in (1, 2))
    client = client_of(store)
    ready(client, path_of(first, second))
    place = store.local_path(f"runs/{second}")
    assert place is not None
    shutil.rmtree(place)
    text = ready(client, path_of(first, second))
    assert f"<strong>{second}</strong> is left out" in text
    assert "Compare 1 run" in text
    params = {"run": [first, second], "metric": "loss"}
    found = client.get("/api/v1/compare/chart", params=params).json()
    assert [one["run"] for one in found["problems"]] == [second]
    assert len(found["series"]) == 1


def test_deleted_questions_are_told_beside_the_answers(store: Store, told: Told) -> None:
    place = store.local_path("")
    assert place is not None
    source = told.store.local_path("")
    assert source is not None
    shutil.copytree(source, place)
    shutil.rmtree(place / "artifacts" / told.story.first.data.sha256)
    path = path_of(told.story.first.run_id, told.story.second.run_id)
    text = ready(client_of(store), path)
    assert "is not in the store any more" in text
    assert "right answer" in text


def test_a_store_that_goes_away_is_no_fault(store: Store) -> None:
    first, second = (make_run(store, n, answers([0.0, 1.0])) for n in (1, 2))
    client = client_of(store)
    ready(client, path_of(first, second))
    place = store.local_path("")
    assert place is not None
    place.rename(place.with_name("away"))
    answer = client.get(path_of(first, second))
    assert answer.status_code in (200, 503)
    assert "is left out" in answer.text or "can't be reached" in answer.text


def test_files_are_plain_links(told: Told, path: str) -> None:
    client = client_of(told.store)
    query = path.partition("?")[2]
    for name, kind in (
        ("table.md", "text/markdown; charset=utf-8"),
        ("metrics.csv", "text/csv; charset=utf-8"),
        ("settings.csv", "text/csv; charset=utf-8"),
        ("curves.csv", "text/csv; charset=utf-8"),
        ("chart.svg", "image/svg+xml"),
        ("chart.png", "image/png"),
        ("shots.svg", "image/svg+xml"),
        ("shots.png", "image/png"),
    ):
        answer = client.get(f"/compare/{name}?{query}&metric=loss&benchmark=miniature_icl")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), name
        assert answer.content
    drawn = client.get(f"/compare/chart.svg?{query}&metric=loss&scheme=dark").text
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert drawn.count("<polyline") >= 2
    assert "#14181d" in drawn
    image = Image.open(io.BytesIO(client.get(f"/compare/chart.png?{query}&metric=loss").content))
    assert image.size[0] == 1440
    assert client.get(f"/compare/chart.gif?{query}&metric=loss").status_code == 404
    assert client.get(f"/compare/chart.svg?{query}&metric=none").status_code == 404
    assert client.get(f"/compare/shots.svg?{query}&benchmark=none").status_code == 404


def test_extreme_numbers_can_be_drawn(store: Store) -> None:
    values = [1e308, -1e308, float("nan"), float("inf"), 1e-320, 0.0]
    one = make_run(store, 1, rows=rows_of(values))
    flat = make_run(store, 2, rows=rows_of([3.0] * 4))
    client = client_of(store)
    for name in (one, flat):
        for more in ("", "&log=1", "&smooth=0.9", "&axis=tokens"):
            for kind in ("svg", "png"):
                answer = client.get(f"/compare/chart.{kind}?run={name}&metric=loss{more}")
                assert answer.status_code == 200, (name, more, kind)
        assert "nan" not in client.get(f"/compare/chart.svg?run={name}&metric=loss").text.lower()
