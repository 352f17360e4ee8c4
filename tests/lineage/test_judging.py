"""What takes time is done aside: judging, and the first look at many records."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.web.dashboards import client_of
from tests.web.story import Story
from vila_core.store import Store
from vila_ops.lineage import LineageIndex
from vila_ops.registry.promote import judge_promotion
from vila_ops.web import judging as judging_module
from vila_ops.web.judging import Judging, Question

ROOT = Path(__file__).parents[2]


def test_slow_gates_are_waited_for_elsewhere(
    own_store: Store, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def slow(*args: object, **more: object):
        assert release.wait(30)
        return judge_promotion(*args, **more)  # type: ignore[arg-type]

    with client_of(own_store) as client:
        client.app.state.judging = desk = Judging(own_store, slow)  # type: ignore[attr-defined]
        monkeypatch.setattr("vila_ops.web.routes.registry.WAIT_SECONDS", 0.05)
        asked = f"/registry/promote?what={story.second.run_id}&to=candidate"
        waiting = client.get(asked)
        assert waiting.status_code == 200
        assert "The gates are being asked" in waiting.text
        assert 'http-equiv="refresh"' in waiting.text
        for number in range(judging_module.MOST_WAITING - 1):
            desk.ask(Question("miniature@1", f"alias{number}", "", "", "somebody"))
        full = client.get("/registry/promote?what=miniature@1&to=other")
        assert full.status_code == 503
        assert "being judged already" in full.text
        monkeypatch.setattr(judging_module, "LONGEST_SECONDS", 0.0)
        late = client.get(asked)
        assert "have not answered" in late.text
        monkeypatch.setattr(judging_module, "LONGEST_SECONDS", 120.0)
        release.set()
        monkeypatch.setattr("vila_ops.web.routes.registry.WAIT_SECONDS", 20.0)
        assert 'name="judged"' in client.get(asked).text
        desk.close()


def test_the_first_look_at_many_records_is_not_waited_for(
    own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    refresh = LineageIndex.refresh

    def slow(index: LineageIndex) -> None:
        assert release.wait(30)
        refresh(index)

    monkeypatch.setattr(LineageIndex, "refresh", slow)
    monkeypatch.setattr("vila_ops.web.lineage_desk.WAIT_SECONDS", 0.05)
    with client_of(own_store) as client:
        waiting = client.get("/lineage?q=miniature@1")
        assert waiting.status_code == 503
        assert 'http-equiv="refresh"' in waiting.text
        version = client.get("/registry/miniature/1")
        assert version.status_code == 200
        assert "read for the index of lineage" in version.text
        assert "model.safetensors" in version.text  # the rest of the page stands
        assert client.get("/api/v1/lineage?q=miniature@1").status_code == 503
        release.set()
        monkeypatch.setattr("vila_ops.web.lineage_desk.WAIT_SECONDS", 20.0)
        assert client.get("/lineage?q=miniature@1").status_code == 200


def test_only_who_was_shown_a_judgement_may_use_it(own_store: Store, story: Story) -> None:
    desk = Judging(own_store)
    asked = desk.ask(Question(story.second.run_id, "candidate", "", "", "ada"))
    assert asked.wait(20) is not None
    assert desk.kept(asked.name, "ada") is not None
    assert desk.kept(asked.name, "eve") is None
    desk.close()


def test_work_aside_holds_up_no_exit() -> None:
    script = """
import threading, time
from vila_ops.web.aside import Aside
aside = Aside(2, "slow")
assert aside.submit(lambda: 5).result(10) == 5
begun = threading.Event()
aside.submit(lambda: (begun.set(), time.sleep(600)))
assert begun.wait(10)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=ROOT)
