"""Pages that renew themselves, in Chromium: nothing jumps, what was opened stays open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dashboards import Dashboard
from made_runs import begin_task, write_end, write_run
from playwright.sync_api import Browser, expect

from components.runtime import record
from components.runtime.record import AttemptWriter
from vila_core.store import Store

RUN = "toy-1129-101010-aaaa"
LATER = 15_000  # ms: a listing, and then a question of the page

pytestmark = pytest.mark.slow


def add_rows(writer: AttemptWriter, first: int, last: int) -> None:
    with (writer.folder / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            file.write(json.dumps({"step": step, "loss": 9.0 / step, "lr": 0.1}) + "\n")
    writer.progress({"done": last, "total": 100, "unit": "step", "values": {"loss": 9.0 / last}})


def test_a_run_that_runs(
    folder_store: Store, dashboards: list[Dashboard], tmp_path: Path, browser: Browser
) -> None:
    write_run(folder_store, RUN)
    record.begin_driver(folder_store, RUN)
    writer = begin_task(folder_store, RUN, "sft", "sft", log="begun\n")
    add_rows(writer, 1, 10)
    dashboards.append(Dashboard("--store", folder_store.uri, env={}, cwd=tmp_path))
    page = browser.new_context(reduced_motion="reduce").new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    home = f"http://127.0.0.1:{dashboards[0].port}"
    page.goto(f"{home}/runs/{RUN}")
    expect(page.locator("#tools [role=status]")).to_have_text("live")
    page.locator("#curves").scroll_into_view_if_needed()
    plot = page.locator("#chart-1 .plot canvas")
    expect(plot).to_be_visible()
    expect(page.locator("#chart-1 .legend output").first).to_have_text("0.9")
    page.locator("#all-settings summary").click()
    page.evaluate("document.querySelector('#chart-1 .plot').dataset.same = 'yes'")
    top = page.evaluate("document.querySelector('#config').getBoundingClientRect().top")

    add_rows(writer, 11, 90)
    (writer.folder / "log.txt").write_text("begun\nnearly done\n")
    expect(page.locator("#chart-1 .legend output").first).to_have_text("0.1", timeout=LATER)
    expect(page.locator("#task .log")).to_contain_text("nearly done")
    expect(page.locator("#tasks tbody")).to_contain_text("90 of 100 step")
    assert page.evaluate("document.querySelector('#chart-1 .plot').dataset.same") == "yes"
    assert page.locator("#all-settings").get_attribute("open") is not None
    moved = page.evaluate("document.querySelector('#config').getBoundingClientRect().top") - top
    assert abs(moved) <= 60, "one more line of log, and nothing else"

    page.locator("#chart-1 .plot").focus()
    page.keyboard.press("Home")
    expect(page.locator("#chart-1 .legend output").first).to_have_text("9")
    page.keyboard.press("+")
    expect(page.locator("#chart-1 .legend button", has_text="Show all")).to_be_visible()
    page.keyboard.press("0")
    expect(page.locator("#chart-1 .legend button", has_text="Show all")).to_be_hidden()

    write_end(folder_store, RUN, "failed", error="out of memory")
    expect(page.locator("#run-title")).to_contain_text("failed", timeout=LATER)
    expect(page.locator("#errors")).to_contain_text("out of memory")
    assert not problems
    assert all(url.startswith(home) for url in asked), "nothing is asked of anybody else"


def test_new_runs_are_announced_and_rows_renewed(
    folder_store: Store, dashboards: list[Dashboard], tmp_path: Path, browser: Browser
) -> None:
    write_run(folder_store, RUN)
    record.begin_driver(folder_store, RUN)
    dashboards.append(Dashboard("--store", folder_store.uri, env={}, cwd=tmp_path))
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{dashboards[0].port}/")
    row = page.locator("#rows tr")
    expect(row).to_have_count(1, timeout=LATER)
    row.locator("input").check()
    write_end(folder_store, RUN, "succeeded")
    expect(row).to_contain_text("succeeded", timeout=LATER)
    assert row.locator("input").is_checked()
    write_run(folder_store, "new-1129-101011-aaaa")
    button = page.locator("#new-rows")
    expect(button).to_have_text("1 new run: show it", timeout=LATER)
    expect(row).to_have_count(1)
    button.click()
    expect(row).to_have_count(2)
    expect(button).to_have_count(0)
    assert page.locator("#rows tr", has_text=RUN).locator("input").is_checked()
    dashboards[0].end(15)
    expect(page.locator("#tools [role=status]")).to_have_text("not live", timeout=LATER)


def test_groups_are_renewed_and_new_ones_announced(
    folder_store: Store, dashboards: list[Dashboard], tmp_path: Path, browser: Browser
) -> None:
    write_run(folder_store, RUN)
    record.begin_driver(folder_store, RUN)
    dashboards.append(Dashboard("--store", folder_store.uri, env={}, cwd=tmp_path))
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{dashboards[0].port}/?group=name")
    group = page.locator("#groups tbody")
    expect(group).to_have_count(1, timeout=LATER)
    expect(group.locator("tr.sum")).to_contain_text("1 run")
    row = group.locator("tr", has_text=RUN)
    row.locator("input").check()

    write_end(folder_store, RUN, "succeeded")
    expect(row).to_contain_text("succeeded", timeout=LATER)
    expect(group.locator("tr.sum")).to_contain_text("succeeded 1")
    expect(group.locator("tr.sum strong").first).to_have_text("0.5")  # now it has a mean
    assert row.locator("input").is_checked()
    button = page.locator("#new-rows")
    expect(button).to_have_count(0)

    write_run(folder_store, "toy-1129-101011-bbbb")
    expect(button).to_have_text("1 new run: show it", timeout=LATER)
    expect(group.locator("tr.sum")).to_contain_text("2 runs")
    expect(group.locator("tr")).to_have_count(2)
    write_run(folder_store, "other-1129-101012-cccc")
    write_run(folder_store, "other-1129-101013-dddd")
    expect(button).to_have_text("1 new group and 1 new run: show them", timeout=LATER)
    expect(page.locator("#page-of")).to_contain_text("4 runs in 2 groups")
    expect(group).to_have_count(1)

    button.click()
    expect(group).to_have_count(2)
    expect(button).to_have_count(0)
    expect(page.locator("#groups tr")).to_have_count(1 + 2 + 2 + 2)  # the head, sums and runs
    assert page.locator("#groups tr", has_text=RUN).locator("input").is_checked()
    assert not problems
