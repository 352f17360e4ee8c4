"""The pages of the registry and of lineage: what they show, and what they let people decide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from components.registry import Registry
from tests.web.dashboards import client_of
from tests.web.story import Story
from vila_core.store import Store
from vila_ops.lineage import LineageIndex
from vila_ops.registry.promote import judge_promotion
from vila_ops.web import judging as judging_module
from vila_ops.web.judging import Judging, Question
from vila_ops.web.registry_view import grouped, past, verdicts
from vila_ops.web.tokens import Tokens, make_token

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def client(own_store: Store) -> Iterator[TestClient]:
    with client_of(own_store) as made:
        yield made


def csrf_of(client: TestClient, **headers: str) -> str:
    found = re.search(
        r'name="csrf" content="([^"]*)"', client.get("/registry", headers=headers).text
    )
    assert found is not None
    return found.group(1)


def judged(client: TestClient, what: str, to: str = "candidate") -> tuple[str, str]:
    """Return the page of a judgement and the name that its form sends back."""
    shown = client.get("/registry/promote", params={"what": what, "to": to}).text
    found = re.search(r'name="judged" value="([^"]*)"', shown)
    return shown, found.group(1) if found else ""


def send(client: TestClient, path: str, **fields: str):
    return client.post(path, data={"csrf": csrf_of(client), **fields})


def set_gate(store: Store, run_id: str, least: float) -> None:
    """Let the run's own gates be one threshold, which it passes by 0.5, and fails by 1.0."""
    path = store.local_path(f"runs/{run_id}/run.json")
    assert path is not None
    value = json.loads(path.read_text())
    value["config"]["register"]["gates"] = [{"metric": "miniature_vqa/accuracy@0", "min": least}]
    path.write_text(json.dumps(value))
    started = path.parent / "tasks/register/001/started.json"
    attempt = json.loads(started.read_text())
    attempt["config"] = value["config"]["register"]
    attempt["key_parts"]["config"] = attempt["config"]
    started.write_text(json.dumps(attempt))


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


def test_a_run_is_judged_promoted_and_rolled_back(
    client: TestClient, own_store: Store, story: Story
) -> None:
    set_gate(own_store, story.second.run_id, 0.5)
    shown, name = judged(client, story.second.run_id)
    assert "All 1 gates passed" in shown
    assert "a new version" in shown
    assert Registry(own_store).aliases("miniature") == {"candidate": 1}  # asking changes nothing
    done = send(
        client,
        "/registry/promote",
        judged=name,
        what=story.second.run_id,
        to="candidate",
        action="promote",
        why="better in all",
    )
    assert (done.status_code, done.headers["location"]) == (303, "/registry/miniature#entry-2")
    entry = Registry(own_store).history("miniature")[-1]
    assert (entry.before, entry.version, entry.why) == (1, 2, "better in all")
    assert entry.evidence["gates"][0]["passed"]
    asked = client.get("/registry/miniature/rollback?alias=candidate").text
    assert "miniature@2" in asked
    assert 'name="to" value="1"' in asked
    back = send(
        client, "/registry/miniature/rollback", alias="candidate", to="1", before="2", why="worse"
    )
    assert back.headers["location"] == "/registry/miniature#entry-3"
    assert Registry(own_store).aliases("miniature") == {"candidate": 1}
    assert "rolled back" in client.get("/registry/miniature").text
    [standing] = past(own_store, "miniature").standing
    assert (standing.version, standing.forced, standing.passed) == (1, False, None)


def test_failed_gates_stop_a_promotion_and_force_is_marked(
    client: TestClient, own_store: Store, story: Story
) -> None:
    set_gate(own_store, story.second.run_id, 1.0)
    shown, name = judged(client, story.second.run_id)
    assert "gates failed" in shown
    assert "marked as forced for ever" in shown
    fields = {"judged": name, "what": story.second.run_id, "to": "candidate"}
    refused = send(client, "/registry/promote", action="promote", why="please", **fields)
    assert refused.status_code == 409
    assert Registry(own_store).aliases("miniature") == {"candidate": 1}
    name = judged(client, story.second.run_id)[1]
    fields["judged"] = name
    no_reason = send(client, "/registry/promote", action="force", why="  ", **fields)
    assert no_reason.status_code == 409
    fields["judged"] = judged(client, story.second.run_id)[1]
    forced = send(client, "/registry/promote", action="force", why="for the demo", **fields)
    assert forced.status_code == 303
    assert Registry(own_store).history("miniature")[-1].forced
    for page in ("/registry", "/registry/miniature", "/registry/miniature/2"):
        assert "forced" in client.get(page).text


def test_who_was_overtaken_looks_again(client: TestClient, own_store: Store, story: Story) -> None:
    set_gate(own_store, story.second.run_id, 0.5)
    _, name = judged(client, story.second.run_id)
    Registry(own_store).move("miniature", "candidate", 1, why="I was first", who="bob")
    version = Registry(own_store).version("miniature", 1)
    other = Registry(own_store).register(
        type(version)(**{**vars(version), "key": "f" * 64, "stored": ""})
    )
    Registry(own_store).move("miniature", "candidate", other.number, why="I was first", who="bob")
    late = send(
        client,
        "/registry/promote",
        judged=name,
        what=story.second.run_id,
        to="candidate",
        action="promote",
        why="",
    )
    assert late.status_code == 409
    assert "Look again" in late.text
    assert "bob moved miniature@candidate to version 2" in late.text
    stale = send(
        client, "/registry/miniature/rollback", alias="candidate", to="1", before="1", why="stale"
    )
    assert stale.status_code == 409
    assert "somebody else moved it" in stale.text


def test_of_many_at_once_one_promotes(client: TestClient, own_store: Store, story: Story) -> None:
    set_gate(own_store, story.second.run_id, 0.5)
    _, name = judged(client, story.second.run_id)
    csrf = csrf_of(client)

    def decide(number: int) -> int:
        fields = {"csrf": csrf, "judged": name, "what": story.second.run_id, "to": "candidate"}
        fields |= {"action": "promote", "why": f"by {number}"}
        return client.post("/registry/promote", data=fields).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(decide, range(16)))
    assert sorted(codes) == [303, *[409] * 15]
    history = Registry(own_store).history("miniature")
    assert [(one.before, one.version) for one in history] == [(None, 1), (1, 2)]
    assert len(Registry(own_store).versions("miniature")) == 2


def test_a_judgement_that_is_not_kept_is_asked_anew(client: TestClient, story: Story) -> None:
    done = send(
        client,
        "/registry/promote",
        judged="forged",
        what=story.second.run_id,
        to="candidate",
        action="promote",
        why="x",
    )
    assert done.status_code == 409
    assert "asked anew" in done.text


def test_rejecting_and_approving(client: TestClient, own_store: Store) -> None:
    path = "/registry/miniature/1/decide"
    assert send(client, path, kind="reject", why="").status_code == 422
    assert send(client, path, kind="reject", why="it is rude").status_code == 303
    assert "it is rude" in client.get("/registry/miniature/1").text
    shown, _ = judged(client, "miniature@1", "champion")
    assert "was rejected by" in shown
    assert send(client, path, kind="approve", why="seen again").status_code == 303
    assert send(client, path, kind="explode", why="x").status_code == 422
    assert [one.kind for one in Registry(own_store).history("miniature")] == [
        "promote",
        "reject",
        "approve",
    ]


def test_forms_of_others_are_refused(client: TestClient, own_store: Store) -> None:
    for path in (
        "/registry/promote",
        "/registry/miniature/rollback",
        "/registry/miniature/1/decide",
    ):
        assert client.post(path, data={"csrf": "forged", "why": "x"}).status_code == 403
    assert len(Registry(own_store).history("miniature")) == 1


@pytest.mark.parametrize(("role", "may", "force"), [("viewer", 403, 403), ("promoter", 409, 403)])
def test_roles_are_kept(
    own_store: Store, tmp_path: Path, story: Story, role: str, may: int, force: int
) -> None:
    secret = make_token(tmp_path / "tokens.txt", "ada", role)[0]
    tokens = Tokens(tmp_path / "tokens.txt")
    with client_of(own_store, tokens) as client:
        head = {"Authorization": f"Bearer {secret}"}
        shown = client.get("/registry/promote", params={"what": story.second.run_id}, headers=head)
        assert shown.status_code == 200
        assert '<button class="danger"' not in shown.text
        fields = {"csrf": csrf_of(client, **head), "what": "miniature@1", "to": "candidate"}
        for action, code in (("promote", may), ("force", force)):
            done = client.post(
                "/registry/promote", data={**fields, "action": action, "why": "x"}, headers=head
            )
            assert done.status_code == code
        api = client.post(
            "/api/v1/registry/promote",
            json={"what": story.second.run_id, "to": "candidate", "why": "x", "force": True},
            headers=head,
        )
        assert api.status_code == 403
    assert len(Registry(own_store).history("miniature")) == 1


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


# ---- the same for programs --------------------------------------------------------------------


def test_the_api_tells_and_decides(client: TestClient, own_store: Store, story: Story) -> None:
    set_gate(own_store, story.second.run_id, 0.5)
    api = "/api/v1/registry"
    [model] = client.get(f"{api}/models").json()["models"]
    assert (model["name"], model["aliases"][0]["version"]) == ("miniature", 1)
    version = client.get(f"{api}/models/miniature/versions/1").json()
    assert {one["path"] for one in version["files"]} >= {"model.safetensors", "config.json"}
    asked = {"what": story.second.run_id, "to": "candidate"}
    dry = client.post(f"{api}/promote", json={**asked, "dry_run": True}).json()
    assert (dry["passed"], dry["version"], dry["entry"]) == (True, None, None)
    assert len(Registry(own_store).history("miniature")) == 1
    done = client.post(f"{api}/promote", json={**asked, "why": "by API"}).json()
    assert (done["version"], done["entry"]["seq"], done["entry"]["why"]) == (2, 2, "by API")
    stale = client.post(
        f"{api}/models/miniature/rollback", json={"alias": "candidate", "expected": 1, "why": "x"}
    )
    assert stale.status_code == 409
    back = client.post(
        f"{api}/models/miniature/rollback", json={"alias": "candidate", "why": "worse"}
    )
    assert back.json()["version"] == 1
    rejected = client.post(f"{api}/models/miniature/versions/2/reject", json={"why": "rude"})
    assert rejected.json()["kind"] == "reject"
    refused = client.post(f"{api}/promote", json={"what": "miniature@2", "to": "candidate"})
    assert refused.status_code == 409
    assert "rejected" in refused.json()["detail"]
    history = client.get(f"{api}/models/miniature/history").json()
    assert [one["kind"] for one in history["entries"]] == [
        "reject",
        "rollback",
        "promote",
        "promote",
    ]


def test_the_api_of_lineage(client: TestClient, story: Story) -> None:
    found = client.get("/api/v1/lineage", params={"q": "miniature@candidate"}).json()
    assert f"artifact:{story.first.data.sha256}" in {one["id"] for one in found["back"]["nodes"]}
    assert found["forward"]["edges"][0]["label"] == "stands at it now"
    several = client.get("/api/v1/lineage", params={"q": "story"}).json()
    assert (len(several["found"]), several["back"]) == (2, None)
    nothing = client.get("/api/v1/lineage", params={"q": "abc"})
    assert nothing.status_code == 404
    assert "at least 6 digits" in nothing.json()["detail"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"what": "x" * 300, "to": "candidate"}, 422),
        ({"what": "miniature@1", "to": "../x"}, 422),
        ({"what": "miniature@1", "to": "candidate", "gates": "/etc/passwd"}, 422),
        ({"what": "miniature@1", "to": "candidate", "more": 1}, 422),
        ({"what": "nothing", "to": "candidate"}, 404),
        ({"what": "miniature@99", "to": "candidate"}, 404),
    ],
)
def test_the_api_refuses_what_it_does_not_know(
    client: TestClient, body: dict[str, object], code: int
) -> None:
    done = client.post("/api/v1/registry/promote", json={**body, "dry_run": True})
    assert done.status_code == code
    assert set(done.json()) == {"error", "detail"}


# ---- what is broken or hostile ----------------------------------------------------------------


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


# ---- judging takes time -----------------------------------------------------------------------


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
