"""The JSON of comparing: columns, null for what is not finite, bounds, problems beside results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from evaluated import answers, client_of, make_run, rows_of
from starlette.testclient import TestClient
from told import Told

from vila_core.store import Store, open_store

BASE = "/api/v1/compare"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def get(client: TestClient, part: str = "", code: int = 200, **params: Any) -> Any:
    answer = client.get(f"{BASE}{part}", params=params)
    assert answer.status_code == code, answer.text
    return json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_a_comparison(told: Told) -> None:
    runs = [told.story.first.run_id, told.story.second.run_id]
    found = get(client_of(told.store), run=runs, patience_s=20)
    assert [one["run"] for one in found["runs"]] == runs
    assert found["page"] == f"/compare?run={runs[0]}&run={runs[1]}"
    assert found["reference"] == runs[0]
    (paired,) = found["paired"]
    assert not paired["pending"]
    assert found["corrected_for"] == len(paired["tests"])
    assert {one["section"] for one in found["settings"]} == {"pretrain", "sft"}
    assert found["seed_groups"] == [
        {"runs": runs, "seeds": ["pretrain.train.seed", "sft.train.seed"]}
    ]
    assert any(one["name"] == "miniature_vqa/accuracy@0" for one in found["metrics"])


def test_curves_are_columns_with_null(store: Store) -> None:
    first = make_run(store, 1, rows=rows_of([1.0, math.nan, math.inf]))
    second = make_run(store, 2, rows=rows_of([2.0, 1e39]))
    client = client_of(store)
    found = get(client, "/curves", run=[first, second], metric=["loss", "step_s", "none"])
    assert found["x"] == [1, 2, 3]
    loss, step_s, none = found["charts"]
    assert [one["y"] for one in loss["series"]] == [[1.0, None, None], [2.0, None, None]]
    assert (loss["unit"], step_s["unit"]) == ("nats per supervised token", "s / step")
    assert none["series"] == []
    one = get(client, "/chart", run=[first, "none"], metric="loss", axis="tokens")
    assert (one["x_label"], one["x"]) == ("tokens", [10, 20, 30])
    assert one["series"][0]["color"] == 1
    assert [problem["run"] for problem in one["problems"]] == ["none"]


def test_shots_have_intervals(told: Told) -> None:
    runs = [told.story.first.run_id, told.story.second.run_id]
    found = get(client_of(told.store), "/shots", run=runs, benchmark="miniature_icl")
    assert found["x"] == [0, 1, 2, 4]
    for one in found["series"]:
        assert all(a <= b <= c for a, b, c in zip(one["low"], one["y"], one["high"], strict=True))
    assert get(client_of(told.store), "/shots", run=runs, benchmark="none")["series"] == []


def test_disagreements_have_questions_and_answers(told: Told) -> None:
    runs = [told.story.first.run_id, told.story.second.run_id]
    client = client_of(told.store)
    found = get(
        client, "/disagreements", run=runs, benchmark="miniature_vqa@0", who="second", rows=5
    )
    assert 0 < found["count"] <= found["of"]
    for row in found["rows"]:
        assert [one["score"] for one in row["answers"]] == [0.0, 1.0]
        images = [part["image"] for part in row["question"] if part["image"]]
        assert all(client.get(image).status_code == 200 for image in images)
        assert images
    get(client, "/disagreements", 422, run=runs, benchmark="miniature_vqa")
    get(client, "/disagreements", 422, run=runs, benchmark="none@0")
    get(client, "/disagreements", 422, run=runs[:1], benchmark="miniature_vqa@0")
    get(client, "/disagreements", 422, run=runs, benchmark="miniature_vqa@0", other="none")


@pytest.mark.parametrize(
    ("part", "params"),
    [
        ("", {}),
        ("", {"run": "x" * 201}),
        ("", {"run": ["a"] * 41}),
        ("/curves", {"run": "a"}),
        ("/curves", {"run": "a", "metric": ["m"] * 101}),
        ("/chart", {"run": "a", "metric": "loss", "points": 10**9}),
        ("/chart", {"run": "a", "metric": "loss", "axis": "x"}),
        ("/curves", {"run": "a", "metric": "loss", "smooth": "nan"}),
        ("/disagreements", {"run": "a", "benchmark": "x@0", "page": 0}),
        ("/disagreements", {"run": "a", "benchmark": "x@0", "who": "nobody"}),
    ],
)
def test_input_is_bounded(part: str, params: dict[str, Any], store: Store) -> None:
    assert "detail" in get(client_of(store), part, 422, **params)


def test_an_unknown_reference_is_refused(store: Store) -> None:
    first = make_run(store, 1, answers([1.0]))
    assert "is none of the runs" in get(client_of(store), "", 422, run=first, ref="x")["detail"]


def test_runs_that_are_none_are_problems(store: Store) -> None:
    for name in ("a/b", "..", "", "a:b", "\0"):
        answer = client_of(store).get(BASE, params={"run": ["x", name]})
        assert answer.status_code in (200, 422)
