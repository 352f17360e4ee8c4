"""A page that remembers all that must not happen: errors, refused content, requests elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
from playwright.sync_api import Browser, Page, Request

from tests.web.story import Story
from vila_core.store import Store

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass(frozen=True)
class Told:
    """The story in a store that a test may change, and a dashboard of it."""

    story: Story
    store: Store
    url: str


class Watched:
    """A page, with what went wrong on it so far."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url
        self.wrong: list[str] = []
        self.script_bytes = 0
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"script failed: {error}"))
        page.on("request", self._requested)

    def open(self, path: str, status: int = 200) -> Page:
        """Go to a page of the dashboard, and wait until it is quiet."""
        answer = self.page.goto(self._url + path, wait_until="load")
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status}"
        return self.page

    def axe(self) -> list[str]:
        """Return what axe finds wrong with the page as it is."""
        # In the page's own world the policy refuses scripts that are not the dashboard's: the
        # debugger's evaluation is not subject to it.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: dict[str, Any] = self.page.evaluate(
            "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", RULES
        )
        return [
            f"{one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def check(self) -> None:
        """Fail if anything went wrong."""
        assert not self.wrong, "\n".join(self.wrong)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def _requested(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and not request.url.startswith(self._url):
            self.wrong.append(f"asked elsewhere: {request.url}")


@contextlib.contextmanager
def watched(
    browser: Browser, url: str, size: tuple[int, int] = DESKTOP, scheme: Any = "light", **more: Any
) -> Iterator[Watched]:
    """Open a window of a size and colour scheme; what goes wrong in it fails the test."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, **more
    )
    try:
        found = Watched(context.new_page(), url)
        found.page.set_default_timeout(15_000)
        yield found
        found.check()
    finally:
        context.close()
