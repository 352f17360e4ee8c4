"""A person's way: look at runs, compare two, promote one, see why, go back. And what keys do."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect
from watched import Told, watched

from components.registry import Registry

pytestmark = pytest.mark.slow


def test_from_two_runs_to_a_promoted_checkpoint_and_back(browser: Browser, told: Told) -> None:
    first, second = told.story.first.run_id, told.story.second.run_id
    with watched(browser, told.url) as window:
        page = window.open("/")
        for run_id in (first, second):
            page.get_by_role("row", name=re.compile(run_id)).get_by_role("checkbox").check()
        page.get_by_role("button", name=re.compile("Compare")).click()
        page.wait_for_url(re.compile(r"/compare\?"))
        assert first in page.url
        assert second in page.url
        row = page.get_by_role("row", name=re.compile("miniature_vqa")).first
        expect(row).to_contain_text(re.compile("better|worse|no difference"))

        window.open(f"/registry/promote?what={first}&to=champion")  # it fails gates
        page.get_by_text("Promote it although gates failed").click()
        page.get_by_label(re.compile("Reason")).fill("There is no other")
        page.get_by_role("button", name=re.compile("^Force champion")).click()
        expect(page.locator("main")).to_contain_text("forced past failed gates")

        window.open(f"/runs/{second}")
        page.get_by_role("link", name=re.compile("Promote")).first.click()
        page.wait_for_url(re.compile(r"/registry/promote"))
        window.open(f"/registry/promote?what={second}&to=champion")
        _promote(page, "Right more often")
        expect(page.locator("main")).to_contain_text("Right more often")
        registry = Registry(told.store)
        assert registry.resolve("miniature@champion").run_id == second

        window.open("/registry/miniature")
        page.locator("#alias-champion").get_by_role("link", name=re.compile("Roll back")).click()
        page.get_by_label(re.compile("Reason")).fill("Worse on our own photographs")
        page.get_by_role("button", name=re.compile("Roll champion back")).click()
        expect(page.locator("main")).to_contain_text("Worse on our own photographs")
        assert registry.resolve("miniature@champion").run_id == first
        kinds = [entry.kind for entry in registry.history("miniature")]
        assert kinds == ["promote", "promote", "promote", "rollback"]

        window.open("/lineage?q=miniature%40champion")
        expect(page.locator("main")).to_contain_text(first)


def _promote(page: Page, why: str) -> None:
    expect(page.locator("main")).to_contain_text("All 4 gates passed")
    page.get_by_label(re.compile("Reason")).first.fill(why)
    page.get_by_role("button", name=re.compile("^Move champion")).click()
    page.wait_for_url(re.compile(r"/registry/miniature"))


def test_keys_lead_everywhere(browser: Browser, told: Told) -> None:
    with watched(browser, told.url) as window:
        page = window.open("/")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        for key, path in (("g", "/registry"), ("l", "/lineage"), ("c", "/compare"), ("r", "/")):
            page.keyboard.press("g")
            page.keyboard.press(key)
            page.wait_for_url(f"{told.url}{path}")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/runs/"))


def test_pages_work_without_script(browser: Browser, told: Told) -> None:
    first, second = told.story.first.run_id, told.story.second.run_id
    with watched(browser, told.url, java_script_enabled=False) as window:
        page = window.open("/")
        expect(page.get_by_role("link", name=first)).to_be_visible()
        window.open(f"/compare?run={first}&run={second}")
        expect(page.locator("figure img").first).to_be_visible()
        _promote(window.open(f"/registry/promote?what={second}&to=champion"), "No script")
        assert Registry(told.store).resolve("miniature@champion").run_id == second


def test_times_are_in_the_viewers_zone(browser: Browser, told: Told) -> None:
    with watched(browser, told.url, timezone_id="Asia/Tokyo", locale="en-GB") as window:
        page = window.open(f"/runs/{told.story.first.run_id}")
        expect(page.locator("main")).to_contain_text("19:00:00")


@pytest.mark.parametrize("path", ["/", "/?group=recipe"])
def test_what_comes_in_moves_nothing_that_is_there(browser: Browser, told: Told, path: str) -> None:
    with watched(browser, told.url) as window:
        page = window.open(path)
        page.evaluate(
            "() => { window.shifts = 0; new PerformanceObserver(list => { "
            "for (const e of list.getEntries()) if (!e.hadRecentInput) window.shifts += e.value; "
            "}).observe({type: 'layout-shift', buffered: false}); }"
        )
        rows = page.locator("table.runs tbody tr")
        before = rows.count()
        text = told.store.read(f"runs/{told.story.first.run_id}/run.json")
        newer = text.replace(b"story-1129-100000-aaaa", b"newer-1129-120000-cccc")
        told.store.write("runs/newer-1129-120000-cccc/run.json", newer)
        button = page.locator("#new-rows")
        expect(button).to_have_text("1 new run: show it", timeout=20_000)
        assert rows.count() == before
        if "group" in path:
            expect(page.locator("tr.sum")).to_contain_text("3 runs")
        assert page.evaluate("window.shifts") < 0.01
        button.click()
        expect(rows).to_have_count(before + 1)
