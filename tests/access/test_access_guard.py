"""What every answer carries, and what no request gets past."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from tests.web.dashboards import client_of
from tests.web.made_runs import write_run
from vila_core.errors import Conflict, Damaged, NotFound, StoreError, UserError
from vila_core.store import Store
from vila_ops.web import guard as guard_module
from vila_ops.web.forms import checked_json, read_form
from vila_ops.web.guard import HEADERS, MOST_BYTES
from vila_ops.web.limits import Buckets, Limit
from vila_ops.web.tokens import Tokens, make_token

HTML = {"accept": "text/html"}
RUN = "toy-1129-101010-aaaa"


@pytest.fixture
def token(tmp_path: Path) -> str:
    return make_token(tmp_path / "tokens", "ada", "admin")[0]


@pytest.fixture
def client(store: Store, tmp_path: Path, token: str) -> Iterator[TestClient]:
    write_run(store, RUN)
    made = client_of(store, Tokens(tmp_path / "tokens"), "http://vila.example.org")
    for name in ("reads", "writes"):
        setattr(made.app.state.access, name, Buckets(Limit(1e6, 1)))  # type: ignore[attr-defined]
    yield made
    made.app.state.access.audit.close()  # type: ignore[attr-defined]


def app_of(client: TestClient) -> FastAPI:
    assert isinstance(client.app, FastAPI)
    return client.app


def paths(client: TestClient) -> list[str]:
    """Every path of the application, with something in its places, and some that are not there."""
    made = []
    for route in iter_route_contexts(app_of(client).routes):
        path = re.sub(r"{run\w*}", RUN, getattr(route, "path", "") or "")
        made.append(re.sub(r"{.*?}", "x", path))
    assert len(made) > 10
    made += ["/static/style.css", "/static/none", "/static/%2e%2e/app.py", "/none", "/api/v1/none"]
    return sorted({path for path in made if path.startswith("/")})


def test_every_answer_has_a_policy_and_is_for_this_site_alone(
    client: TestClient, token: str, store: Store
) -> None:
    bearer = {"authorization": f"Bearer {token}"}
    local = client_of(store)
    for path in [*paths(client), "/api/v1/openapi.json"]:
        for method in ("GET", "POST", "TRACE"):
            for one, headers in ((client, bearer), (client, HTML), (local, {})):
                answer = one.request(method, path, headers=headers)
                assert answer.status_code != 500, (method, path)
                for name, value in HEADERS.items():
                    if name == "Cache-Control" and path.startswith("/static/"):
                        value = "no-cache"
                    assert answer.headers[name] == value, (method, path, name)
                assert "access-control-allow-origin" not in answer.headers
                assert "server" not in answer.headers
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


def test_nobody_gets_past(client: TestClient) -> None:
    opened = ("/login", "/login/oidc", "/login/callback", "/healthz", "/livez")
    for path in paths(client):
        if path in opened or path.startswith("/static"):
            continue
        for headers in (
            {},
            {"cookie": "vila_session=x.y"},
            {"cookie": "__Host-vila_session=x.y", "x-forwarded-proto": "https"},
            {"x-forwarded-for": "127.0.0.1", "host": "127.0.0.1"},
            {"x-original-url": "/livez", "x-rewrite-url": "/livez"},
        ):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, RUN in answer.text) == (401, False), (path, headers)
            assert client.post(path, headers=headers).status_code == 401, path


def test_errors_of_the_api_are_problems(client: TestClient, token: str) -> None:
    bearer = {"authorization": f"Bearer {token}"}
    for headers, path, code in (
        ({}, "/api/v1/audit", 401),
        (bearer, "/api/v1/none", 404),
        (bearer, "/api/v1/audit?before=x", 422),
        ({**bearer, "content-length": str(MOST_BYTES + 1)}, "/api/v1/audit", 413),
        ({**bearer, "content-length": "-1"}, "/api/v1/audit", 413),
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == code
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == {"error", "detail"}
    answer = client.delete("/api/v1/audit", headers=bearer)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("error", "read", "written"),
    [
        (NotFound("no such run"), 404, 404),
        (UserError("miniature@9: no such version"), 404, 422),
        (Conflict("the alias moved"), 409, 409),
        (StoreError("the bucket does not answer"), 503, 503),
        (Damaged("config.json: another digest"), 503, 503),
        (RuntimeError("a secret of ours"), 500, 500),
    ],
)
def test_what_errors_become(
    client: TestClient, token: str, error: Exception, read: int, written: int
) -> None:
    @app_of(client).api_route("/api/v1/fails", methods=["GET", "POST"])
    @app_of(client).api_route("/fails", methods=["GET", "POST"])
    def fails() -> None:
        raise error

    bearer = {"authorization": f"Bearer {token}"}
    for path in ("/fails", "/api/v1/fails"):
        assert client.get(path, headers=bearer).status_code == read
        answer = client.post(path, headers=bearer)
        assert answer.status_code == written
        assert ("secret" in answer.text, "Traceback" in answer.text) == (False, False)


def test_bodies_are_bounded(client: TestClient, token: str) -> None:
    router = APIRouter(prefix="/api/v1")

    @router.post("/takes", dependencies=[Depends(checked_json)])
    def takes(value: list[int]) -> int:
        return len(value)

    @router.post("/form")
    async def form(request: Request) -> int:
        return len(await read_form(request))

    app_of(client).include_router(router)
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    assert client.post("/api/v1/takes", json=[1] * 1000, headers=headers).json() == 1000

    def endless() -> Iterator[bytes]:  # chunked: no length is told before
        yield b"[1"
        for _ in range(64):
            yield b",1" * 2**14

    answer = client.post("/api/v1/takes", content=endless(), headers=headers)
    assert answer.status_code == 413
    answer = client.post("/api/v1/takes", content=b"[" * 100_000, headers=headers)
    assert answer.status_code in (400, 422), "nested too deeply"
    answer = client.post("/api/v1/form", content=b"a=" + b"x" * 9000, headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("host", ["[::1", "", "a b", "127.0.0.1:x", "evil.example", "x@127.0.0.1"])
def test_hosts_that_are_not_this_machine(store: Store, host: str) -> None:
    write_run(store, RUN)
    answer = client_of(store).get("/", headers={"host": host})
    assert (answer.status_code in (400, 421), RUN in answer.text) == (True, False)


@pytest.mark.parametrize("host", ["[::1", "", "a b", "\xff", "x" * 5000])
def test_odd_hosts_break_nothing(client: TestClient, token: str, host: str) -> None:
    headers: dict[str, Any] = {"authorization": f"Bearer {token}", "host": host.encode("latin-1")}
    assert client.get("/login", headers=headers).status_code < 500
    assert client.get("/api/v1/audit", headers=headers).status_code < 500


def test_what_takes_too_long_is_not_waited_for(
    client: TestClient, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "ANSWER_SECONDS", 0.2)
    ended = threading.Event()

    @app_of(client).get("/api/v1/slow")
    def slow() -> str:
        ended.wait(5)
        return "at last"

    bearer = {"authorization": f"Bearer {token}"}
    began = time.monotonic()
    with client:  # one event loop, as in the process
        answer = client.get("/api/v1/slow", headers=bearer)
        assert time.monotonic() - began < 3
        assert (answer.status_code, answer.json()["error"]) == (503, "No answer")
        ended.set()
        assert client.get("/livez").status_code == 200


def test_a_stream_may_last(client: TestClient, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.responses import StreamingResponse

    monkeypatch.setattr(guard_module, "ANSWER_SECONDS", 0.1)

    @app_of(client).get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            for number in range(4):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.1)

        return StreamingResponse(parts(), media_type="text/event-stream")

    answer = client.get("/stream", headers={"authorization": f"Bearer {token}"})
    assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
