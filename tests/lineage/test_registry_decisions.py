"""What the pages of the registry let people decide, and who may."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from components.registry import Registry
from tests.lineage.deciding import csrf_of, judged, promote, send, set_gate
from tests.web.dashboards import client_of
from tests.web.story import Story
from vila_core.store import Store
from vila_ops.web.registry_view import past
from vila_ops.web.tokens import Tokens, make_token


def test_a_run_is_judged_promoted_and_rolled_back(
    client: TestClient, own_store: Store, story: Story
) -> None:
    set_gate(own_store, story.second.run_id, 0.5)
    shown, name = judged(client, story.second.run_id)
    assert "All 1 gates passed" in shown
    assert "a new version" in shown
    assert Registry(own_store).aliases("miniature") == {"candidate": 1}  # asking changes nothing
    done = promote(client, story.second.run_id, name, "better in all")
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
    refused = promote(client, story.second.run_id, name, "please")
    assert refused.status_code == 409
    assert Registry(own_store).aliases("miniature") == {"candidate": 1}
    _, name = judged(client, story.second.run_id)
    no_reason = promote(client, story.second.run_id, name, "  ", "force")
    assert no_reason.status_code == 409
    _, name = judged(client, story.second.run_id)
    forced = promote(client, story.second.run_id, name, "for the demo", "force")
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
    late = promote(client, story.second.run_id, name, "")
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
    done = promote(client, story.second.run_id, "forged", "x")
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
