"""Every page, in both schemes and on a phone: accessible, nothing refused, nobody else asked."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser
from watched import DESKTOP, PHONE, Told, watched

pytestmark = pytest.mark.slow


def paths(told: Told) -> dict[str, str]:
    first, second = told.story.first.run_id, told.story.second.run_id
    return {
        "runs": "/",
        "run": f"/runs/{second}",
        "nothing chosen to compare": "/compare",
        "compare": f"/compare?run={first}&run={second}",
        "registry": "/registry",
        "model": "/registry/miniature",
        "version": "/registry/miniature/1",
        "entry of the history": "/registry/miniature/history/1",
        "promote": f"/registry/promote?what={second}&to=champion",
        "lineage": "/lineage",
        "lineage of a version": "/lineage?q=miniature%40candidate",
        "audit log": "/audit",
    }


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit(
    browser: Browser, told: Told, size: tuple[int, int], scheme: str
) -> None:
    problems = []
    with watched(browser, told.url, size, scheme) as window:
        for name, path in paths(told).items():
            window.open(path)
            problems += [f"{name}: {problem}" for problem in window.axe()]
            if (beyond := window.overflow()) > 0:
                problems.append(f"{name}: {beyond} px wider than the window")
    assert not problems, "\n".join(problems)
