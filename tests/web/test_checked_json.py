"""JSON that changes something: from programs, and from this session's own pages alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
from dashboards import LOCAL, client_of
from fastapi import APIRouter, Depends, FastAPI
from starlette.testclient import TestClient

from vila_core.store import Store
from vila_ops.web.api import ERRORS
from vila_ops.web.forms import checked_json
from vila_ops.web.roles import Role, Viewer, needs
from vila_ops.web.tokens import Tokens, make_token

PATH = "/api/v1/change"
JSON = {"content-type": "application/json"}


def with_change(client: TestClient) -> TestClient:
    """The application with a route that changes something, as other modules add theirs."""
    router = APIRouter(prefix="/api/v1", responses=ERRORS, dependencies=[Depends(checked_json)])

    @router.post("/change")
    def change(viewer: Annotated[Viewer, Depends(needs(Role.promoter))]) -> dict[str, str]:
        return {"who": viewer.name}

    app = client.app
    assert isinstance(app, FastAPI)
    app.include_router(router)
    return client


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    names = {"ada": "promoter", "bob": "viewer"}
    return {name: make_token(tmp_path / "t", name, role)[0] for name, role in names.items()}


@pytest.fixture
def client(folder_store: Store, tmp_path: Path, tokens: dict[str, str]) -> TestClient:
    return with_change(client_of(folder_store, Tokens(tmp_path / "t"), "http://vila.example.org"))


def log_in(client: TestClient, token: str) -> str:
    """Return what this session's pages tell scripts to send back."""
    client.post("/login", data={"token": token, "csrf": meta(client, "/login")})
    return meta(client, "/")


def meta(client: TestClient, path: str) -> str:
    found = re.search(r'<meta name="csrf" content="(\w+)">', client.get(path).text)
    assert found is not None
    return found.group(1)


def test_programs_need_their_token_and_the_content_type(
    client: TestClient, tokens: dict[str, str]
) -> None:
    good = {"authorization": f"Bearer {tokens['ada']}", **JSON}
    assert client.post(PATH, content="{}", headers=good).json() == {"who": "ada"}
    assert client.post(PATH, content="{}", headers=JSON).status_code == 401
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post(PATH, content="{}", headers={**good, "content-type": kind})
        assert answer.status_code == 415, kind
        assert "application/json" in answer.json()["detail"]
    bob = {**good, "authorization": f"Bearer {tokens['bob']}"}
    answer = client.post(PATH, content="{}", headers=bob)
    assert answer.status_code == 403
    assert answer.json()["detail"] == "this needs the role promoter; bob is viewer"


def test_scripts_send_what_the_page_holds(client: TestClient, tokens: dict[str, str]) -> None:
    csrf = log_in(client, tokens["ada"])
    good = {**JSON, "x-csrf-token": csrf}
    assert client.post(PATH, content="{}", headers=good).json() == {"who": "ada"}
    for more in (
        {"x-csrf-token": ""},
        {"x-csrf-token": "0" * 64},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert client.post(PATH, content="{}", headers={**good, **more}).status_code == 403, more
    assert client.post(PATH, content="{}", headers=JSON).status_code == 403
    own = {"origin": "http://vila.example.org", "sec-fetch-site": "same-origin"}
    assert client.post(PATH, content="{}", headers={**good, **own}).status_code == 200
    other = TestClient(client.app, base_url="http://vila.example.org", follow_redirects=False)
    log_in(other, tokens["ada"])
    assert other.post(PATH, content="{}", headers=good).status_code == 403, "another session's"


def test_this_machine_needs_no_token_but_the_content_type(folder_store: Store) -> None:
    client = with_change(client_of(folder_store))
    assert client.post(PATH, content="{}", headers=JSON).status_code == 200
    assert client.post(PATH, content="{}").status_code == 415
    for more in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert client.post(PATH, content="{}", headers={**JSON, **more}).status_code == 403
    assert client.post(PATH, headers={**JSON, "origin": LOCAL}).status_code == 200
