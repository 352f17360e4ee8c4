"""The page of the supported benchmarks is the one that the code makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vila_core.eval.benchmark import NAMES, TEXT_ONLY, benchmark
from vila_core.eval.reference import PAGE, page, prose

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current() -> None:
    committed = (ROOT / PAGE).read_text(encoding="utf-8")
    assert committed == page(), "run python -m vila_core.eval.reference, and commit the page"


def test_links_of_the_table_lead_to_sections() -> None:
    text = page()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    linked = re.findall(r"\]\(#([^)]*)\)", text)
    assert len(linked) == len(set(linked)) > 0
    assert set(linked) <= anchors


def test_image_places_are_shown_and_no_html() -> None:
    assert prose("<image>, then `<image>↵{q}` or <x>") == "&lt;image>, then `<image>↵{q}` or &lt;x>"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TEXT_ONLY])
def test_every_benchmark_says_all_that_the_page_needs(name: str) -> None:
    each = benchmark(name)
    section = page().split(f"## {each.title}\n")[1].split("\n## ")[0]
    for needed in (each.source, each.prompt, each.scoring, each.disagreements):
        assert needed.strip(), f"{name}: a field of the page is empty"
        assert prose(needed) in section
    for spec in each.files:
        assert set(spec.splits) <= set(each.splits), f"{name}: {spec.name}"
