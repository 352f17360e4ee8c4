"""Who may look: tokens, sessions, forms, and what an attacker tries."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import stat
import time
from pathlib import Path

import pytest
from dashboards import client_of
from made_runs import write_run
from starlette.requests import Request
from starlette.testclient import TestClient

from vila_core.errors import UserError
from vila_core.store import Store
from vila_ops.web.access import COOKIE, Access, is_loopback
from vila_ops.web.roles import Role, Viewer
from vila_ops.web.sessions import HOURS
from vila_ops.web.tokens import Tokens, make_token

HTML = {"accept": "text/html"}
OUTSIDE = "http://vila.example.org"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.txt"


@pytest.fixture
def token(file: Path) -> str:
    return make_token(file, "ada")[0]


@pytest.fixture
def client(folder_store: Store, file: Path, token: str) -> TestClient:
    write_run(folder_store, "toy-1129-101010-aaaa")
    return client_of(folder_store, Tokens(file), OUTSIDE)


def name_of(access: Access, cookie: str) -> str | None:
    headers = [(b"cookie", f"{COOKIE}={cookie}".encode())]
    request = Request({"type": "http", "scheme": "http", "headers": headers})
    viewer = asyncio.run(access.of_session(request))
    return viewer.name if viewer else None


def form_token(client: TestClient, path: str) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', client.get(path, headers=HTML).text)
    assert found is not None
    return found.group(1)


def log_in(client: TestClient, token: str, next: str = "/") -> None:
    fields = {"token": token, "next": next, "csrf": form_token(client, "/login")}
    answer = client.post("/login", data=fields)
    assert answer.status_code == 303
    assert answer.headers["location"] == next


def test_without_a_token_only_health_and_the_form_are_there(client: TestClient) -> None:
    for path in ("/healthz", "/livez", "/login", "/static/style.css"):
        assert client.get(path).status_code == 200, path
    for path in ("/", "/runs/toy-1129-101010-aaaa", "/metrics", "/nothing", "/loginx", "//login"):
        answer = client.get(path)
        assert (answer.status_code, "toy-1129" in answer.text) == (401, False), path
        assert answer.headers["www-authenticate"] == "Bearer"
    answer = client.get("/runs/x?task=a b", headers=HTML)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login?next=%2Fruns%2Fx%3Ftask%3Da%2520b"
    assert "store" not in client.get("/healthz").json(), "nothing is told to everybody"
    assert "file://" not in client.get("/login").text


def test_a_program_sends_its_token(client: TestClient, token: str) -> None:
    good = {"authorization": f"Bearer {token}"}
    assert "toy-1129" in client.get("/", headers=good).text
    assert client.get("/metrics", headers=good).status_code == 200
    for wrong in (f"Bearer {token}x", "Bearer ", "Bearer", f"Basic {token}", token, "Bearer \xe9"):
        headers = {"authorization": wrong.encode("latin-1")}
        assert client.get("/", headers=headers).status_code == 401, wrong  # type: ignore[arg-type]


def test_a_browser_logs_in_and_out(client: TestClient, token: str) -> None:
    page = client.get("/runs/toy-1129-101010-aaaa", headers=HTML)
    log_in(client, token, "/runs/toy-1129-101010-aaaa")
    page = client.get("/", headers=HTML)
    assert page.status_code == 200
    assert "ada" in page.text
    answer = client.post("/logout", data={"csrf": form_token(client, "/")})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert client.get("/", headers=HTML).status_code == 303


def test_the_cookie_is_kept_from_scripts_and_other_sites(client: TestClient, token: str) -> None:
    fields = {"token": token, "csrf": form_token(client, "/login")}
    cookie = client.post("/login", data=fields).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert token not in cookie
    # Over TLS, or behind a proxy that ends it: a name that no other host and no plain HTTP can set.
    safe = TestClient(client.app, base_url="https://vila.example.org", follow_redirects=False)
    log_in(safe, token)
    fields = {"token": token, "csrf": form_token(safe, "/login")}
    for cookie in safe.post("/login", data=fields).headers.get_list("set-cookie"):
        assert cookie.startswith("__Host-vila_")
        assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    assert safe.get("/", headers=HTML).status_code == 200
    tossed = safe.cookies["__Host-vila_session"]
    other = TestClient(client.app, base_url="https://vila.example.org", follow_redirects=False)
    other.cookies.set(COOKIE, tossed)
    assert other.get("/", headers=HTML).status_code == 303, "set by plain HTTP, or by a neighbour"
    assert form_token(client, "/login")
    proxied = {"x-forwarded-proto": "https"}
    assert "Secure" in client.get("/login", headers=proxied).headers["set-cookie"]


def test_a_wrong_token_is_told_and_begins_nothing(client: TestClient) -> None:
    fields = {"token": "vila_wrong", "csrf": form_token(client, "/login")}
    answer = client.post("/login", data=fields)
    assert answer.status_code == 403
    assert "not known" in answer.text
    assert COOKIE not in client.cookies


def test_forms_of_other_pages_are_refused(client: TestClient, token: str) -> None:
    for fields in ({"token": token}, {"token": token, "csrf": "0" * 64}, {"csrf": "\xe9"}):
        assert client.post("/login", data=fields).status_code == 403
    good = {"token": token, "csrf": form_token(client, "/login")}
    crossed = client.post("/login", data=good, headers={"sec-fetch-site": "cross-site"})
    assert crossed.status_code == 403
    for origin in ("http://evil.example", "null", "http://vila.example.org.evil.example"):
        assert client.post("/login", data=good, headers={"origin": origin}).status_code == 403
    visitor = TestClient(client.app, base_url=OUTSIDE, follow_redirects=False)
    form_token(visitor, "/login")
    assert visitor.post("/login", data=good).status_code == 403, "of another browser's form"
    before = good["csrf"]
    log_in(client, token)
    assert client.post("/logout", data={"csrf": before}).status_code == 403, "another session's"
    assert client.get("/", headers=HTML).status_code == 200
    assert client.post("/logout", content=b"x" * 10_000).status_code == 413
    assert client.post("/logout", content=b"\xff").status_code == 400


@pytest.mark.parametrize(
    "goal",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\r\nx: y",
        "",
    ],
)
def test_a_login_leads_nowhere_else(client: TestClient, token: str, goal: str) -> None:
    fields = {"token": token, "next": goal, "csrf": form_token(client, "/login")}
    assert client.post("/login", data=fields).headers["location"] == "/"


def test_forged_sessions(client: TestClient, token: str, file: Path) -> None:
    log_in(client, token)
    cookie = client.cookies[COOKIE]
    body, signature = cookie.split(".")
    later = base64.urlsafe_b64decode(body + "==").replace(b"ada", b"eve")
    forged = base64.urlsafe_b64encode(later).decode().rstrip("=")
    known = Access(Tokens(file))
    assert name_of(known, cookie) == "ada", "another process of the same file takes it"
    nobodys = known.sessions.seal("another purpose", {"name": "ada"})
    odd = known.sessions.seal("session", {"name": "ada"})
    for wrong in (
        f"{forged}.{signature}",
        f"{body}.{signature[:-1]}0x",
        body,
        ".",
        "",
        "a.b",
        f"{body}.",
        f"é.{signature}",
        cookie + "=",
        f"{body}.{signature}.x",
        cookie[:-1],
        "x" * 100_000,
        nobodys,
        odd,
        known.sessions.begin("eve", "token", token),
        known.sessions.begin("ada", "oidc", "admin"),
    ):
        assert name_of(known, wrong) is None, wrong


def test_a_session_ends_by_time_and_with_its_token(
    file: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_token(file, "bob")
    known = Access(Tokens(file))
    line = known.tokens.of(token) if known.tokens else None
    assert line is not None
    session = known.sessions.begin("ada", "token", line.mark)
    assert name_of(known, session) == "ada"
    later = time.time() + HOURS * 3600 + 1
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: later)
        assert name_of(known, session) is None
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("ada")) + "\n")
    assert name_of(known, session) is None
    assert known.of_bearer(token) is None


def test_a_file_that_breaks_later_changes_nothing(file: Path, token: str) -> None:
    known = Access(Tokens(file))
    file.write_text("nonsense\n")
    assert known.of_bearer(token) == Viewer("ada", Role.viewer)
    file.unlink()
    assert known.of_bearer(token) == Viewer("ada", Role.viewer)


def test_the_file_holds_hashes_and_is_for_its_owner_alone(file: Path) -> None:
    token, line = make_token(file, "ada")
    text = file.read_text()
    assert token not in text
    assert line in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    second, _ = make_token(file, "bob", "promoter")
    known = Access(Tokens(file))
    assert known.of_bearer(token) == Viewer("ada", Role.viewer)
    assert known.of_bearer(second) == Viewer("bob", Role.promoter)
    with pytest.raises(UserError, match="a token named 'ada' already"):
        make_token(file, "ada")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_roles_of_tokens(file: Path) -> None:
    with pytest.raises(UserError, match="--role 'chief': is none; use one of viewer, runner"):
        make_token(file, "ada", "chief")
    file.write_text("old:sha256:" + "0" * 64 + "\n")
    made = {role.name: make_token(file, f"a-{role.name}", role.name)[0] for role in Role}
    known = Access(Tokens(file))
    assert {name: known.of_bearer(token) for name, token in made.items()} == {
        role.name: Viewer(f"a-{role.name}", role) for role in Role
    }
    file.write_text(file.read_text().replace("a-admin:admin:", "a-admin:viewer:"))
    assert known.of_bearer(made["admin"]) == Viewer("a-admin", Role.viewer), "read again"


@pytest.mark.parametrize("name", ["", "session-key", "a:b", "a\nb", "-x", "x" * 65])
def test_names_of_tokens(file: Path, name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        make_token(file, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read.*vila dashboard token"),
        ("", "holds no token"),
        ("# ada\nsession-key:" + "0" * 64 + "\n", "holds no token"),
        ("ada:sha256:" + "0" * 63, "line 1: is no token"),
        ("\nada:md5:" + "0" * 64, "line 2: is no token"),
        ("ada:chief:sha256:" + "0" * 64, "line 1: is no token.*viewer, runner, promoter, admin"),
        ("vila_secret", "line 1: is no token"),
    ],
)
def test_files_that_are_none(file: Path, text: str | None, said: str) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        Tokens(file)
    assert "vila_secret" not in str(caught.value), "a token put there by mistake is not repeated"


def test_without_tokens_only_this_machine_is_answered(folder_store: Store) -> None:
    write_run(folder_store, "toy-1129-101010-aaaa")
    for base in ("http://localhost:8080", "http://127.0.0.1", "http://[::1]:8080"):
        assert client_of(folder_store, None, base).get("/").status_code == 200
    for base in ("http://evil.example:8080", "http://127.0.0.1.evil.example", "http://10.0.0.1"):
        answer = client_of(folder_store, None, base).get("/")
        assert (answer.status_code, "toy-1129" in answer.text) == (421, False)
    local = client_of(folder_store)
    assert local.get("/login").headers["location"] == "/"
    assert local.post("/logout").status_code == 404


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.evil.example")))
    assert os.environ.get("VILA_DASHBOARD_TOKENS") is None
