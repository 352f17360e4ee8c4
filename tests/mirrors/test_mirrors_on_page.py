"""A version's page tells how far each target has come: delivered, waiting, or given up."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from html import unescape
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from news import write
from playwright.sync_api import Browser
from receivers import receiving

from components.registry import Registry
from tests.browser.watched import DESKTOP, PHONE, watched
from tests.web.dashboards import Dashboard, client_of
from tests.web.story import Story
from vila_core.store import Store, open_store
from vila_ops.registry import outbox
from vila_ops.registry.mirror_settings import VARIABLE, MirrorSettings

PAGE = "/registry/miniature/1"


@pytest.fixture
def store(
    told: tuple[Store, Story], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: None
) -> Iterator[Store]:
    """Of the story, told to three: one takes all, one fails always, one refused the first entry."""
    source = told[0].local_path("")
    assert source is not None
    shutil.copytree(source, tmp_path / "store")
    store = open_store(tmp_path / "store")
    refused = [410] * outbox.MOST_REFUSALS
    with receiving(200) as good, receiving(500) as bad, receiving(*refused, 200) as moved:
        urls = {"chat": good.url, "deploy": bad.url, "moved": moved.url}
        own = {"secret": {"env": "HOOK_SECRET"}, "allow_http": True, "allow_private": True}
        settings = MirrorSettings.model_validate(
            {"webhooks": {name: {"url": url, **own} for name, url in urls.items()}}
        )
        write(tmp_path / "registry.yaml", settings)
        monkeypatch.setenv(VARIABLE, str(tmp_path / "registry.yaml"))
        outbox.backfill(store, settings)
        Registry(store).move("miniature", "champion", 1, why="good")
        for _ in refused:
            outbox.deliver(store, settings, again=True)
        outbox.deliver(store, settings, again=True)
        yield store


def rows(page: str) -> list[str]:
    """The text of each target's card."""
    listed = page.partition('<ul class="aliases" aria-label="Mirrors">')[2].partition("</ul>")[0]
    cards = listed.split("</li>")[:-1]
    return [" ".join(unescape(re.sub("<[^>]*>", " ", card)).split()) for card in cards]


def test_each_target_says_what_it_has_and_what_it_waits_for(store: Store) -> None:
    standing = json.loads(store.read("registry/miniature/outbox/deploy.json"))
    lost = json.loads(store.read("registry/miniature/outbox/moved.json"))["given_up"]
    next_try, tries = standing["next_try"][:19].replace("T", " "), standing["attempts"]
    assert tries == outbox.MOST_REFUSALS + 1
    at = lost[0]["at"][:19].replace("T", " ")
    with client_of(store) as client:
        chat, deploy, moved = rows(client.get(PAGE).text)
    assert chat == "chat webhook up to date 2 delivered"
    assert deploy == (
        f"deploy webhook failing 0 delivered, 2 waiting: entries 1, 2 next try {next_try} , "
        f"after {tries} that failed the receiver answered 500"
    )
    assert moved == (
        "moved webhook up to date gave up 1 1 delivered "
        f"Gave up entry 1, {at} : the receiver answered 410"
    )


@pytest.mark.parametrize("lost", [["x"], [{"seq": 1}], 7])
def test_a_state_that_is_none_costs_only_its_own_card(store: Store, lost: object) -> None:
    path = store.local_path("registry/miniature/outbox/moved.json")
    assert path is not None
    path.write_text(json.dumps({"done": 2, "given_up": lost}))
    with client_of(store) as client:
        shown = client.get(PAGE)
    chat, _, moved = rows(shown.text)
    assert shown.status_code == 200
    assert chat == "chat webhook up to date 2 delivered"
    assert moved.startswith("moved webhook unreadable 0 delivered registry/miniature/outbox/moved")


@pytest.mark.slow
def test_in_a_browser_times_are_of_the_viewers_zone(
    browser: Browser, store: Store, tmp_path: Path
) -> None:
    standing = json.loads(store.read("registry/miniature/outbox/deploy.json"))
    moment = datetime.fromisoformat(standing["next_try"]).astimezone(ZoneInfo("Asia/Tokyo"))
    dashboard = Dashboard(env={"VILA_STORE": store.uri}, cwd=tmp_path)
    try:
        for size in (DESKTOP, PHONE):
            for scheme in ("light", "dark"):
                url = f"http://127.0.0.1:{dashboard.port}"
                with watched(browser, url, size, scheme, timezone_id="Asia/Tokyo") as window:
                    page = window.open(PAGE)
                    cards = page.get_by_role("list", name="Mirrors").get_by_role("listitem")
                    assert cards.count() == 3
                    shown = cards.nth(1).inner_text()
                    assert f"next try {moment:%Y-%m-%d %H:%M:%S}, after" in shown
                    assert "Times are GMT+9" in page.inner_text("main")
                    assert not window.axe()
                    assert window.overflow() <= 0
    finally:
        dashboard.process.kill()
        dashboard.process.communicate()
