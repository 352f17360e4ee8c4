"""Take the pictures of the dashboard: `python docs/images/dashboard.py --store .vila RUN OTHER`.

Needs the extras `web` and `dev`, Chromium, and a store with two runs of one recipe, the second one
registered (the tutorial docs/tutorials/promote.md makes such a store). Nothing in it is changed.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
COLOURS = 200
HIDE = "document.querySelectorAll('.store').forEach(one => one.textContent = 'file:///…/.vila')"
"""Where the store lies is this machine's business."""


@contextmanager
def dashboard(store: str) -> Iterator[str]:
    """Run `vila dashboard` on a free port; yield its address."""
    command = [sys.executable, "-m", "vila_ops.cli.main", "dashboard", "--port", "0"]
    process = subprocess.Popen([*command, "--store", store], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            sys.exit("error: the dashboard did not start")
        yield found.group()
    finally:
        process.terminate()
        process.wait()


def pages(run: str, other: str, model: str) -> dict[str, tuple[str, int, int]]:
    """Return path, width and height by the name of the picture."""
    return {
        "runs": ("/", 1280, 560),
        "run": (f"/runs/{other}", 1280, 1500),
        "compare": (f"/compare?run={run}&run={other}", 1280, 1500),
        "registry": (f"/registry/{model}", 1280, 900),
        "promote": (
            f"/registry/promote?what={other}&to=champion&gates=miniature-champion",
            1280,
            900,
        ),
        "lineage": (f"/lineage?q={model}@champion", 1280, 900),
        "phone": (f"/runs/{other}", 390, 844),
    }


def main() -> None:
    """Take all pictures in the light scheme, the page of a run in the dark one too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, metavar="RUN")
    parser.add_argument("--store", default=".vila")
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--only", nargs="*", help="names of pictures")
    asked = parser.parse_args()
    with dashboard(asked.store) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        wanted = [
            (f"dashboard-{name}{'-dark' if scheme == 'dark' else ''}", scheme, *page)
            for name, page in pages(*asked.runs, asked.model).items()
            for scheme in ("light", "dark")
            if scheme == "light" or name == "run"
        ]
        for name, scheme, path, width, height in wanted:
            if asked.only and name not in asked.only:
                continue
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                timezone_id="Europe/Berlin",
                locale="en-GB",
            )
            page = context.new_page()
            page.goto(url + path, wait_until="load")
            page.evaluate(HIDE)
            page.wait_for_timeout(2500)  # curves are drawn, parts that come later are there
            shot = page.screenshot()
            context.close()
            with Image.open(io.BytesIO(shot)) as image:
                image.convert("RGB").quantize(COLOURS).save(HERE / f"{name}.png", optimize=True)
            print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
