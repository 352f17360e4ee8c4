"""The pages of the registry and of lineage: what they show, also of what is broken or hostile."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from components.registry import Registry
from tests.lineage.deciding import HOSTILE, send
from tests.web.dashboards import client_of
from tests.web.story import Story
from vila_core.store import Store
from vila_ops.web.registry_view import grouped, verdicts


def test_models_aliases_and_history_are_shown(client: TestClient, story: Story) -> None:
    listed = client.get("/registry").text
    assert 'href="/registry/miniature/1"' in listed
    assert "the first of the story" in listed
    model = client.get("/registry/miniature").text
    assert 'id="entry-1"' in model
    assert "The chain of 1 entries is whole" in model
    version = client.get("/registry/miniature/1").text
    for told in (story.first.run_id, story.first.model.sha256[:12], "model.safetensors", "mmc4"):
        assert told in version
    assert '<svg class="lineage"' in version
    assert "vila registry pull miniature@1" in version
    entry = client.get("/registry/miniature/history/1")
    assert entry.status_code == 200


def test_empty_states_say_what_to_do(tmp_path: Path) -> None:
    from vila_core.store import open_store

    with client_of(open_store(tmp_path / "empty")) as client:
        assert "vila promote RUN --to candidate" in client.get("/registry").text
        assert "vila run quickstart" in client.get("/lineage").text
        assert client.get("/lineage?q=nothing").status_code == 404


def test_paired_evidence_is_a_table_on_one_scale() -> None:
    details = {"gate": "toy@0", "n": 96, "first": 0.9, "second": 0.85, "difference": -0.05}
    details |= {"low": -0.08, "high": -0.02, "margin": 0.02, "null": -0.02, "p_holm": 0.73}
    gate = {"passed": False, "text": "toy", "kind": "non-inferior", "details": details}
    other = {**gate, "details": {**details, "low": -0.3, "high": "no number"}}
    found = grouped(verdicts({"gates": [gate, other, {**gate, "details": None}]}))
    assert len(found) == 3
    [(kind, [row])] = found.paired
    assert kind == "non-inferior, above -2 points"
    assert (row.numbers.this, row.numbers.present) == (85.0, 90.0)
    assert "-5.00 points, from -8.00 to -2.00; above -2.00 is asked" in row.svg


def test_a_broken_history_is_a_banner_and_stops_decisions(
    client: TestClient, own_store: Store, story: Story
) -> None:
    Registry(own_store).note("miniature", "reject", 1, why="first")
    path = own_store.local_path("registry/miniature/history/1.json")
    assert path is not None
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "why": "changed by hand"}))
    for page in ("/registry/miniature", "/registry/miniature/1"):
        shown = client.get(page)
        assert shown.status_code == 200
        assert "is not whole" in shown.text
        assert "vila registry verify miniature" in shown.text
    assert "history broken" in client.get("/registry").text
    asked = client.get("/registry/promote", params={"what": story.second.run_id})
    assert asked.status_code == 409
    assert 'name="judged"' not in asked.text
    assert send(client, "/registry/miniature/1/decide", kind="approve", why="x").status_code == 409
    rolled = send(
        client, "/registry/miniature/rollback", alias="candidate", to="1", before="1", why="x"
    )
    assert rolled.status_code == 409
    api = client.post("/api/v1/registry/promote", json={"what": "miniature@1", "to": "champion"})
    assert api.status_code == 409


def test_a_history_that_was_cut_off_is_told_by_the_aliases(
    client: TestClient, own_store: Store
) -> None:
    Registry(own_store).move("miniature", "champion", 1, why="second")
    own_store.delete("registry/miniature/history/2.json")
    shown = client.get("/registry/miniature").text
    assert "is not whole" in shown
    assert "history/2.json is missing" in shown
    assert send(client, "/registry/miniature/1/decide", kind="approve", why="x").status_code == 409
    assert not own_store.exists("registry/miniature/history/2.json")


def test_a_version_that_was_changed_is_promoted_nowhere(
    client: TestClient, own_store: Store
) -> None:
    Registry(own_store).note("miniature", "approve", 1, why="good as it is")
    path = own_store.local_path("registry/miniature/versions/1.json")
    assert path is not None
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "metrics": {"toy/accuracy@0": 1.0}}))
    shown = client.get("/registry/miniature/1")
    assert shown.status_code == 200
    assert "is not what was registered" in shown.text
    assert "Ask the gates" not in shown.text
    asked = client.get("/registry/promote?what=miniature@1&to=champion")
    assert asked.status_code == 409
    assert 'name="judged"' not in asked.text
    api = client.post("/api/v1/registry/promote", json={"what": "miniature@1", "to": "champion"})
    assert api.status_code == 409


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": "other"}', "[" * 50_000])
def test_a_tampered_version_is_told_and_others_stand(
    client: TestClient, own_store: Store, text: str
) -> None:
    version = Registry(own_store).version("miniature", 1)
    Registry(own_store).register(type(version)(**{**vars(version), "key": "f" * 64, "stored": ""}))
    own_store.write("registry/miniature/versions/1.json", text.encode())
    model = client.get("/registry/miniature")
    assert model.status_code == 200
    assert "can&#39;t be read" in model.text or "can't be read" in model.text
    assert 'href="/registry/miniature/2"' in model.text
    assert client.get("/registry/miniature/1").status_code == 409
    assert client.get("/registry/miniature/2").status_code == 200
    assert client.get("/api/v1/registry/models/miniature/versions/1").status_code == 409


def test_a_deleted_or_changed_artifact_is_a_note_in_its_place(
    client: TestClient, own_store: Store, story: Story
) -> None:
    place = own_store.local_path(f"artifacts/{story.first.model.sha256}")
    assert place is not None
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)
    manifest = place / "manifest.json"
    manifest.write_text(manifest.read_text().replace("model.safetensors", "other.safetensors"))
    changed = client.get("/registry/miniature/1")
    assert "it was changed" in changed.text
    shutil.rmtree(place)
    gone = client.get("/registry/miniature/1")
    assert gone.status_code == 200
    assert "there is no such key" in gone.text
    assert '<svg class="lineage"' in gone.text
    assert "missing" in gone.text


def test_foreign_folders_are_told(client: TestClient, own_store: Store) -> None:
    own_store.write(f"registry/{HOSTILE.replace('/', '')}/versions/1.json", b"{}")
    own_store.write("registry/empty/notes.txt", b"hello")
    own_store.write("registry/miniature/versions/notes.txt", b"hello")
    shown = client.get("/registry")
    assert shown.status_code == 200
    assert "<script>alert" not in shown.text
    assert "be a model" in shown.text
    assert client.get("/registry/empty").status_code == 200
    for name in ("UPPER", "a b", "a%00b", "a%2fb"):
        assert client.get(f"/registry/{name}").status_code in (307, 404, 422)
    assert client.get("/api/v1/registry/models").status_code == 200


def test_hostile_texts_are_texts(client: TestClient, own_store: Store, story: Story) -> None:
    registry = Registry(own_store)
    version = registry.version("miniature", 1)
    evil = {
        "passed": True,
        "gates": [
            {"passed": True, "text": HOSTILE, "kind": HOSTILE, "details": {HOSTILE: HOSTILE}},
            "no verdict",
            {"passed": "yes", "text": 5, "details": []},
        ],
    }
    made = registry.register(
        type(version)(
            **{
                **vars(version),
                "key": "f" * 64,
                "stored": "",
                "run_id": "nowhere",
                "evidence": evil,
                "metrics": {HOSTILE: 1.0},
            }
        )
    )
    registry.move("miniature", "candidate", made.number, why=HOSTILE, who=HOSTILE, evidence=evil)
    for page in (
        "/registry",
        "/registry/miniature",
        "/registry/miniature/2",
        "/registry/miniature/history/2",
        "/registry/miniature/rollback?alias=candidate",
        f"/registry/promote?what={HOSTILE}&to={HOSTILE}",
        f"/lineage?q={HOSTILE}",
        "/lineage?q=miniature@2",
    ):
        text = client.get(page).text
        assert "<script>alert" not in text
        assert "<img" not in text
    assert client.get("/registry/promote?what=..%2f..&to=candidate").status_code in (404, 409)


def test_times_of_lineage_are_in_the_viewers_zone(client: TestClient) -> None:
    text = client.get("/lineage?q=miniature@1").text
    assert re.search(r'registered\s+<time datetime="20\d\d-[^"]*\+00:00">20', text)


def test_the_store_may_go_away(client: TestClient, own_store: Store, tmp_path: Path) -> None:
    root = own_store.local_path("")
    assert root is not None
    client.get("/lineage?q=miniature@1")
    root.rename(tmp_path / "away")
    root.write_text("no folder")
    for page in ("/registry", "/registry/miniature", "/registry/miniature/1", "/lineage?q=last"):
        assert client.get(page).status_code in (200, 404, 503)
    root.unlink()
    (tmp_path / "away").rename(root)
    assert client.get("/registry/miniature/1").status_code == 200
