"""The registry and lineage for programs."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from components.registry import Registry
from tests.lineage.deciding import set_gate
from tests.web.story import Story
from vila_core.store import Store


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
