"""A run's page: graph, curves, mixture, scores, samples, links; each part by itself."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dashboards import client_of
from made_runs import TASKS, begin_task, write_end, write_run
from parsed import Page
from story import Story, make_story

from components.runtime import record
from vila_core.store import Store, open_store
from vila_ops.view import TaskView
from vila_ops.web import graph
from vila_ops.web.results import wilson

RUN = "toy-1129-101010-aaaa"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story]:
    folder = tmp_path_factory.mktemp("story")
    return folder / "store", make_story(open_store(folder / "store"), folder)


@pytest.fixture
def story(told: tuple[Path, Story], tmp_path: Path) -> tuple[Store, Story]:
    """A copy that a test may break."""
    shutil.copytree(told[0], tmp_path / "store", symlinks=True)
    return open_store(tmp_path / "store"), told[1]


def test_every_part_is_there(story: tuple[Store, Story]) -> None:
    store, about = story
    client = client_of(store)
    html = client.get(f"/runs/{about.second.run_id}").text
    page = Page(html)
    assert "can't be shown" not in page.text
    for part in ("tasks", "task", "curves", "mixture", "evaluation", "samples", "made", "config"):
        assert part in page.ids, part
    assert {"chart-1", "in-context-1"} <= set(page.ids)
    assert "Loss" in page.text
    assert "miniature@1" in page.text or "No version" in page.text
    images = re.findall(r'<img src="([^"]+)"', html)
    assert images
    picture = client.get(images[0])
    assert picture.status_code == 200
    assert picture.headers["content-type"].startswith("image/")
    low, high = re.findall(r"([\d.]+) to ([\d.]+)</td>", html)[0]
    assert 0 <= float(low) < float(high) <= 100
    for url in re.findall(r'data-curves="([^"]+)"', html):
        found = client.get(url.replace("&amp;", "&"))
        assert found.status_code == 200, url
        assert found.json()["series"], url


def test_samples_are_chosen_by_the_url(story: tuple[Store, Story]) -> None:
    store, about = story
    client = client_of(store)

    def texts(query: str) -> str:
        html = client.get(f"/runs/{about.first.run_id}?{query}").text
        return html[html.index('id="samples"') :]

    wrong = texts("benchmark=miniature_vqa&show=wrong")
    assert 'badge good">' not in wrong.split('id="made"')[0]
    right = texts("benchmark=miniature_vqa&show=right").split('id="made"')[0]
    assert 'badge bad">' not in right
    assert "demonstrations" in texts("benchmark=miniature_icl&shots=2")
    for odd in ("benchmark=none", "shots=-1", "at=99999999", "show=%00", "at=0"):
        assert "questions" in texts(odd)


@pytest.mark.parametrize("gone", ["data", "results", "model"])
def test_a_deleted_artifact_leaves_the_rest(story: tuple[Store, Story], gone: str) -> None:
    store, about = story
    ref = getattr(about.second, gone)
    folder = store.local_path(f"artifacts/{ref.sha256}")
    assert folder is not None
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)
    answer = client_of(store).get(f"/runs/{about.second.run_id}")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert "Loss" in page.text
    assert "miniature_vqa" in page.text
    if gone == "results":
        assert "Intervals can't be shown" in page.text
        assert "Samples can't be shown" in page.text
    if gone == "data":
        assert "can't be shown" in page.text
        assert "reference:" in page.text


def test_records_that_were_tampered_with_are_told(story: tuple[Store, Story]) -> None:
    store, about = story
    folder = store.local_path(f"artifacts/{about.second.results.sha256}")
    assert folder is not None
    path = folder / "records.jsonl"
    folder.chmod(0o755)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"score":0.0', '"score":1.0'))
    page = Page(client_of(store).get(f"/runs/{about.second.run_id}").text)
    assert "does not match its digest" in page.text


def test_parts_that_are_not_ours(folder_store: Store) -> None:
    write_run(folder_store, RUN, config={"sft": {"mixture": {"a": EVIL, "b": -1}}, "pipeline": 7})
    record.begin_driver(folder_store, RUN)
    strange = {
        "status": "succeeded",
        "outputs": {"results": {"sha256": EVIL, "uri": "x"}, "model": {"sha256": "0" * 64}},
        "metrics": {f"{EVIL}/accuracy@0": 0.5, "a/b@x": 1, "a/accuracy@99999999999": 1.0, "@": 1},
    }
    begin_task(folder_store, RUN, "evaluate", "evaluate").finish(strange)
    record.end_run(folder_store, RUN, "succeeded")
    for name, text in (("parity", "{}"), ("resume-sft", "[1"), (f"x{'y' * 50}", '{"equal": 7}')):
        folder_store.write(f"runs/{RUN}/certificates/{name}.json", text.encode())
    folder_store.write("registry/odd/versions/1.json", b"{")
    folder_store.write(f"runs/{RUN}/cluster.json", b'{"kfp": "x", "cluster": {}}')
    answer = client_of(folder_store).get(f"/runs/{RUN}")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert "can't be shown" in page.text
    assert "it can't be read" in page.text
    assert RUN in page.text


def test_hostile_names_stay_text(folder_store: Store) -> None:
    names = [[EVIL, "sft"], ["a/b", "sft"], ["..", "sft"], ["%2e", EVIL], ["é ü", "sft"]]
    write_run(folder_store, RUN, tasks=names, recipe=EVIL, argv=[EVIL], environment={EVIL: EVIL})
    record.begin_driver(folder_store, RUN)
    rows = [{"step": 1, "loss": 1.0, EVIL: 3.0}]
    begin_task(folder_store, RUN, "é ü", "sft", rows, log=EVIL)
    client = client_of(folder_store)
    html = client.get(f"/runs/{RUN}").text
    assert EVIL in Page(html).text
    for link in Page(html).links:
        if link.startswith("?"):
            assert client.get(f"/runs/{RUN}{link.partition('#')[0]}").status_code == 200, link
    url = re.findall(r'data-curves="([^"]+)"', html)[0].replace("&amp;", "&")
    assert client.get(url).json()["series"][0]["y"] == [1.0]


def test_attempts_errors_and_why(folder_store: Store) -> None:
    write_run(folder_store, RUN)
    record.begin_driver(folder_store, RUN)
    first = begin_task(folder_store, RUN, "sft", "sft")
    first.finish(
        {"status": "failed", "exit_code": 1, "error": {"kind": "UserError", "message": "too big"}}
    )
    begin_task(folder_store, RUN, "sft", "sft", log="second try")
    page = Page(client_of(folder_store).get(f"/runs/{RUN}?task=sft").text)
    for text in ("2 attempts", "too big", "second try", "ended before its key was known"):
        assert text in page.text, text


def test_a_run_is_stopped_from_its_page(folder_store: Store) -> None:
    write_run(folder_store, RUN)
    script = (
        "import sys, time, signal\n"
        "from components.runtime import record\n"
        "from vila_core.store import open_store\n"
        "store = open_store(sys.argv[1])\n"
        f"record.begin_driver(store, '{RUN}')\n"
        "def end(*_):\n"
        f"    record.end_run(store, '{RUN}', 'stopped'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script, folder_store.uri], stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        client = client_of(folder_store)
        html = client.get(f"/runs/{RUN}").text
        (csrf,) = set(re.findall(r'name="csrf" value="([^"]*)"', html))
        place = f"/runs/{RUN}/stop"
        assert client.post(place, data={"csrf": "forged"}).status_code == 403
        assert client.get(place).status_code == 405
        assert driver.poll() is None
        answer = client.post(place, data={"csrf": csrf})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{RUN}")
        assert driver.wait(20) in (0, -signal.SIGTERM)
        html = client.get(f"/runs/{RUN}").text
        assert "stopped" in Page(html).text
        assert f"/runs/{RUN}/stop" not in html
        again = client.post(place, data={"csrf": csrf})
        assert again.status_code == 409
        assert "not running" in again.text
    finally:
        driver.kill()
        driver.communicate()


def test_links_lead_where_the_settings_say(
    folder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("WANDB_ENTITY", "team a")
    tracking = {"project": "vila", "wandb": "online"}
    write_run(folder_store, RUN, config={"tracking": tracking})
    write_end(folder_store, RUN, "succeeded")
    html = client_of(folder_store).get(f"/runs/{RUN}").text
    assert f"https://wandb.ai/team%20a/vila/groups/{RUN}" in html
    monkeypatch.setenv("WANDB_BASE_URL", "javascript:alert(1)")
    html = client_of(folder_store).get(f"/runs/{RUN}").text
    assert "javascript:" not in html


def test_a_million_rows_and_a_long_log(folder_store: Store) -> None:
    write_run(folder_store, RUN)
    record.begin_driver(folder_store, RUN)
    writer = begin_task(folder_store, RUN, "sft", "sft")
    with (writer.folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 200_001):
            loss = 99.0 if step == 123_456 else 1.0
            file.write(f'{{"loss":{loss},"step":{step}}}\n')
    (writer.folder / "log.txt").write_text("a line of the log\n" * 200_000)
    client = client_of(folder_store)
    began = time.monotonic()
    html = client.get(f"/runs/{RUN}").text
    assert time.monotonic() - began < 20
    assert len(html) < 400_000
    assert "200,000 rows" in Page(html).text
    found = client.get(f"/api/v1/runs/{RUN}/curves?task=sft&key=loss").json()
    assert max(found["series"][0]["high"]) == 99.0
    assert len(found["x"]) <= 600


def task(name: str, **more: object) -> TaskView:
    return TaskView(name, "sft", "succeeded", **more)  # type: ignore[arg-type]


def test_the_graph_has_boxes_apart_and_lines_that_matter() -> None:
    edges = {
        "b": frozenset({"a"}),
        "c": frozenset({"a", "b"}),
        "d": frozenset({"c", "a"}),
        "e": frozenset({"a"}),
        "f": frozenset({"e", "d"}),
        "loop": frozenset({"loop", "gone"}),
    }
    laid = graph.place([task(name) for name in ("a", "b", "c", "d", "e", "f", "loop")], edges)
    assert len(laid.lines) == 6, (
        "a-b, b-c, c-d, a-e, e-f, d-f: what follows from others is left out"
    )
    places = {(box.x, box.y) for box in laid.boxes}
    assert len(places) == 7
    at = {box.task.name: box for box in laid.boxes}
    for name, parents in edges.items():
        for parent in parents & at.keys() - {name}:
            assert at[parent].x < at[name].x
    for one in laid.boxes:
        for other in laid.boxes:
            if one is not other and one.x == other.x:
                assert abs(one.y - other.y) >= graph.HEIGHT
        assert 0 <= one.x <= laid.width - graph.WIDTH
        assert 0 <= one.y <= laid.height - graph.HEIGHT
    circle = {"a": frozenset({"b"}), "b": frozenset({"a"})}
    assert len(graph.place([task("a"), task("b")], circle).boxes) == 2
    assert graph.place([], {}).boxes == ()


def test_graph_of_a_packaged_pipeline(folder_store: Store) -> None:
    edges = graph.edges_of(folder_store, RUN, "recipe")
    assert "sft" in edges
    assert "pretrain" in edges["sft"]
    with pytest.raises(Exception, match="no pipeline"):
        graph.edges_of(folder_store, RUN, "none")


def test_wilson_intervals() -> None:
    low, high = wilson(0.5, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson(1.0, 20)[1] == 1.0
    assert 0.8 < wilson(1.0, 20)[0] < 0.9
    assert wilson(float("nan"), 5) == (0.0, 1.0)


def test_the_page_names_a_task_of_each_kind(folder_store: Store) -> None:
    write_run(folder_store, RUN)
    write_end(folder_store, RUN, "succeeded")
    page = Page(client_of(folder_store).get(f"/runs/{RUN}").text)
    for name, _ in TASKS:
        assert name in page.text
    assert json.dumps({"lr": 0.1})[1:-1] in page.text
