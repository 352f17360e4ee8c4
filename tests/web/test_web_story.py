"""The story that other tests of pages are told with holds together."""

from __future__ import annotations

from pathlib import Path

import pytest
from dashboards import client_of
from story import make_story

from components.registry import Registry
from vila_core.store import Store, verify
from vila_ops.paired import compare_paired
from vila_ops.runs import load_view


@pytest.mark.slow
def test_the_story_holds_together(folder_store: Store, tmp_path: Path) -> None:
    story = make_story(folder_store, tmp_path)
    for told in (story.first, story.second):
        view = load_view(folder_store, told.run_id)
        assert view.status == "succeeded"
        assert view.metrics["miniature_vqa/accuracy@0"] > 0.5
        for ref in (told.data, told.model, told.results):
            verify(folder_store, ref)
    assert Registry(folder_store).resolve("miniature@candidate") == story.version
    found = compare_paired(folder_store, story.first.run_id, story.second.run_id)
    assert {row.benchmark for row in found.rows} >= {"miniature_vqa", "miniature_icl"}
    page = client_of(folder_store).get(f"/runs/{story.second.run_id}")
    assert page.status_code == 200
    assert "cached" in page.text
