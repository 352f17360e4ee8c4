"""The question in the URL of the list of runs: words, fields, conditions, order, groups."""

from __future__ import annotations

import pytest
from dashboards import client_of
from made_runs import begin_task, write_run
from parsed import Page

from components.runtime import record
from vila_core.store import Store
from vila_ops.run_index import RunRow, TaskRow
from vila_ops.web.query import Asked, answer, conditions, parse, spreads, usual_columns

VQA = "miniature_vqa/accuracy@0"


def row(run_id: str, **more: object) -> RunRow:
    fields = {
        "name": run_id.partition("-")[0],
        "recipe": "toy",
        "runner": "inline",
        "status": "succeeded",
        "started_at": f"2026-01-01T00:00:{len(run_id):02d}+00:00",
        "duration_s": 60.0,
        "code_digest": "c" * 64,
        "error": "",
        "metrics": {},
        "data": {"prepare": "d" * 64},
        "tasks": (TaskRow("sft", "sft", "succeeded", 1.0),),
    }
    return RunRow(run_id=run_id, **{**fields, **more})  # type: ignore[arg-type]


ROWS = [
    row("good-1", metrics={VQA: 0.9}, duration_s=10.0),
    row("fair-2", metrics={VQA: 0.5}, recipe="vila-7b", data={"prepare": "e" * 64}),
    row("bad-3", status="failed", error="CUDA out of memory", duration_s=None),
]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("", "good-1 fair-2 bad-3"),
        ("GOOD", "good-1"),
        ("memory", "bad-3"),
        ("recipe:vila", "fair-2"),
        ("status:fail", "bad-3"),
        ("name:good", "good-1"),
        ("data:ee", "fair-2"),
        ("data:e0", ""),
        ("code:cc", "good-1 fair-2 bad-3"),
        (f"{VQA}>0.8", "good-1"),
        (f"{VQA}>=0.5", "good-1 fair-2"),
        (f"{VQA}<0.6", "fair-2"),
        (f"{VQA}=0.5", "fair-2"),
        (f"{VQA}!=0.5", "good-1"),
        ("time<60", "good-1"),
        (f"good {VQA}<0.6", ""),
        ("unknown:good", ""),
    ],
)
def test_what_fits(q: str, expected: str) -> None:
    found = answer(ROWS, Asked(q=q, sort="started", order="up"))
    assert {row.run_id for row in found.rows} == set(expected.split())
    assert found.unclear == ()


@pytest.mark.parametrize("word", [f"{VQA}>much", f"{VQA}>", "a/b<=--1", "a/b=1e", "a/b<>3"])
def test_a_condition_that_means_nothing_is_told_and_left_out(word: str) -> None:
    wanted, unclear = conditions(f"good {word}")
    assert unclear == (word,)
    assert len(wanted) == 1


def test_rows_without_the_metric_come_last() -> None:
    for order, expected in (("down", "good-1 fair-2 bad-3"), ("up", "fair-2 good-1 bad-3")):
        found = answer(ROWS, Asked(sort=VQA, order=order))  # type: ignore[arg-type]
        assert [row.run_id for row in found.rows] == expected.split()


def test_groups_say_what_their_runs_are_together() -> None:
    rows = [row(f"sweep-{n}", metrics={VQA: n / 10}) for n in range(12)]
    rows.append(row("sweep-failed", status="failed", metrics={VQA: 0.0}))
    found = answer([*rows, *ROWS], Asked(group="name"), metrics=[VQA, "none/accuracy@0"])
    assert {group.name for group in found.groups} == {"sweep", "good", "fair", "bad"}
    group = next(group for group in found.groups if group.name == "sweep")
    assert (group.count, len(group.rows)) == (13, 10)
    assert group.statuses == {"succeeded": 12, "failed": 1}
    assert group.metrics[VQA].count == 12
    assert group.metrics[VQA].mean == pytest.approx(0.55)
    assert group.metrics[VQA].deviation == pytest.approx(0.36056, rel=1e-4)
    assert spreads([row("a-1", metrics={VQA: 1e308}), row("a-2", metrics={VQA: 1e308})], [VQA])


def test_the_question_survives_its_link() -> None:
    given = {"q": ["a b"], "status": ["failed"], "sort": [VQA], "cols": [VQA, "x/y@0"]}
    asked = parse(given)
    again = parse({k: v if isinstance(v, list) else [str(v)] for k, v in asked.link().items() if v})
    assert again == asked
    assert parse({"page": ["٣"], "sort": ["\0"], "group": ["x"], "order": ["z"]}) == Asked()


def test_the_usual_columns_are_headlines() -> None:
    names = [
        f"{task}/{metric}@0"
        for task in ("a", "a.type", "vqa")
        for metric in ("accuracy", "chance", "blind_accuracy")
        if not (task == "a" and metric == "blind_accuracy")
    ]
    assert usual_columns(sorted(names)) == ("vqa/accuracy@0", "a/accuracy@0")
    assert usual_columns(["pope/f1@0", "pope/chance@0"]) == ("pope/f1@0",)
    assert usual_columns([]) == ()


def scored(store: Store, run: str, value: float, recipe: str = "toy") -> None:
    write_run(store, run, recipe=recipe)
    record.begin_driver(store, run)
    data = {"data": {"sha256": "ab" * 32, "uri": "file:///x"}}
    begin_task(store, run, "prepare", "prepare").finish(
        {"status": "succeeded", "outputs": data, "metrics": {}}
    )
    begin_task(store, run, "evaluate", "evaluate").finish(
        {"status": "succeeded", "outputs": {}, "metrics": {VQA: value, "vqa/chance@0": 0.25}}
    )
    record.end_run(store, run, "succeeded")


def test_the_page_shows_what_the_url_asks(folder_store: Store) -> None:
    for number in range(4):
        scored(folder_store, f"sweep-1129-10100{number}-aaaa", number / 4, recipe=f"r{number % 2}")
    client = client_of(folder_store)

    def shown(query: str) -> list[str]:
        links = Page(client.get(f"/{query}").text).links
        return [link[-6:-5] for link in links if link.startswith("/runs/")]

    assert shown(f"?q={VQA}%3E0.3") == ["3", "2"]
    assert shown(f"?sort={VQA}") == ["3", "2", "1", "0"]
    assert shown(f"?sort={VQA}&order=up") == ["0", "1", "2", "3"]
    assert shown("?q=data:abab") == ["3", "2", "1", "0"]
    html = client.get("/?group=recipe&cols=vqa/chance@0").text
    page = Page(html)
    assert "2 runs" in page.text
    assert "0.25" in page.text
    assert 'name="run" value="sweep-1129-101003-aaaa" form="compare"' in html
    assert "Not understood" in Page(client.get(f"/?q={VQA}%3Ex").text).text
    none = client.get("/?cols=none").text
    assert "data-title" not in none
    for link in Page(client.get(f"/?q=sweep&group=name&cols={VQA}").text).links:
        if link.startswith(("?", "/?")):
            assert client.get("/" + link.lstrip("/")).status_code == 200, link
