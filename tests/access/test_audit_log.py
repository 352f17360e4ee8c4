"""Who did what is kept, in order, and a change to it shows; no request waits for it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.web.dashboards import client_of
from vila_core.errors import StoreError
from vila_core.store import Store
from vila_ops.web import audit as audit_module
from vila_ops.web.audit import FOLDER, Audit, Event
from vila_ops.web.audit_log import Filter, audit_findings, newest, read_audit
from vila_ops.web.tokens import Tokens, make_token

HTML = {"accept": "text/html"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "_GATHER_SECONDS", 0.01)
    monkeypatch.setattr(audit_module, "_RETRY_SECONDS", (0.02, 0.1))


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    names = {"ada": "admin", "bob": "viewer"}
    return {n: make_token(tmp_path / "tokens", n, role)[0] for n, role in names.items()}


@pytest.fixture
def client(store: Store, tmp_path: Path, tokens: dict[str, str]) -> Iterator[TestClient]:
    made = client_of(store, Tokens(tmp_path / "tokens"), "http://vila.example.org")
    yield made
    log_of(made).close()


def log_of(client: TestClient) -> Audit:
    return client.app.state.access.audit  # type: ignore[attr-defined]


def event(number: int = 0, **more: object) -> Event:
    values = {
        "at": datetime.now(UTC),
        "who": "ada",
        "role": "admin",
        "client": "192.0.2.1",
        "action": "promote",
        "what": f"miniature@{number}",
        "outcome": "done",
        "status": 303,
        "detail": {},
    }
    return Event.model_validate(values | more)


def form(client: TestClient, path: str) -> dict[str, str]:
    found = re.search(r'name="csrf" value="(\w+)"', client.get(path, headers=HTML).text)
    assert found is not None
    return {"csrf": found.group(1)}


def told(client: TestClient, store: Store) -> list[tuple[str, str, str, int]]:
    assert log_of(client).flush()
    return [(e.who, e.action, e.outcome, e.status) for e in newest(store, 1000)]


def test_logins_logouts_changes_and_refusals(
    client: TestClient, store: Store, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vila.audit")
    client.get("/", headers=HTML)
    client.post("/login", data={"token": "vila_wrong", **form(client, "/login")})
    client.post("/login", data={"token": tokens["bob"], **form(client, "/login")})
    client.get("/")
    client.get("/audit")
    client.post("/login", data={"token": tokens["bob"], "csrf": "forged"})
    client.post("/logout", data=form(client, "/"), headers={"origin": "https://evil.example"})
    client.post("/logout", data=form(client, "/"))
    client.get("/metrics", headers={"authorization": "Bearer vila_nobodys"})
    client.post("/nothing", headers={"authorization": f"Bearer {tokens['ada']}"})
    assert told(client, store) == [
        ("", "log in", "refused", 403),
        ("bob", "log in", "done", 303),
        ("bob", "GET /audit", "refused", 403),
        ("bob", "log in", "refused", 403),
        ("", "POST /logout", "refused", 403),
        ("bob", "log out", "done", 303),
        ("", "send a token", "refused", 401),
        ("ada", "POST /nothing", "failed", 404),
    ]
    kept = b"".join(store.read(key) for key in store.list(FOLDER)).decode()
    for secret in ("vila_wrong", "vila_nobodys", "forged", *tokens.values()):
        assert secret not in kept
        assert secret not in caplog.text
    first = newest(store, 1000)[1]
    assert (first.client, first.detail) == ("testclient", {"via": "token", "role": "viewer"})
    assert '"action":"log in"' in caplog.text, "the process's log has the same"
    assert audit_findings(store) == (8, [])


def test_the_page_and_the_json_of_admins(
    client: TestClient, store: Store, tokens: dict[str, str]
) -> None:
    audit = log_of(client)
    for number in range(250):
        audit.add(event(number, who="<script>alert(1)</script>" if number == 7 else "eve"))
    audit.add(event(1000, who="bob", outcome="refused", action="roll back"))
    assert audit.flush()
    ada = {"authorization": f"Bearer {tokens['ada']}"}
    bob = {"authorization": f"Bearer {tokens['bob']}"}
    assert client.get("/audit", headers=bob).status_code == 403
    assert client.get("/api/v1/audit", headers=bob).status_code == 403
    assert client.get("/api/v1/audit").status_code == 401
    page = client.get("/audit", headers=ada).text
    assert "miniature@1000" in page
    assert "<script>alert" not in client.get("/audit?who=script", headers=ada).text
    seen: list[str] = []
    before = ""
    while before is not None:
        found = client.get("/api/v1/audit", params={"before": before}, headers=ada).json()
        seen += [one["what"] for one in found["entries"] if one["what"]]
        before = found["older"]
    assert seen == [f"miniature@{number}" for number in (1000, *range(249, -1, -1))]
    found = client.get("/api/v1/audit?who=BO&outcome=refused&action=roll", headers=ada).json()
    assert [one["what"] for one in found["entries"]][:1] == ["miniature@1000"]
    assert client.get("/api/v1/audit?before=../../x", headers=ada).status_code == 422
    page = client.get("/audit?before=../../x&outcome=%00&page=9", headers=ada)
    assert page.status_code == 200


def test_pages_of_it_follow_the_objects(store: Store) -> None:
    audit = Audit(store)
    for number in range(5):
        audit.add(event(number))
        assert audit.flush()
    audit.close()
    keys = list(store.list(FOLDER))
    assert len(keys) == 5
    found = read_audit(store, Filter(), keys[3].removeprefix(FOLDER))
    assert [one.what for one in found.entries] == [f"miniature@{n}" for n in (2, 1, 0)]
    assert read_audit(store, Filter(), "2000-01-01/x").entries == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:1], lines[1].replace("ada", "eve"), *lines[2:]], "was changed"),
        (lambda lines: lines[:1] + lines[2:], "after entry 1 .* comes entry 3"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "after entry 2 .* comes entry 2"),
        (lambda lines: [lines[1], lines[0], lines[2]], ""),  # the numbers say the order
        (lambda lines: lines[1:], "after entry 0 .* comes entry 2"),
        (lambda lines: ["no json"], "is no object of the audit log"),
        (lambda lines: [json.dumps({**json.loads(lines[0]), "role": 3})], "is no object"),
    ],
)
def test_what_is_changed_shows(store: Store, change: object, said: str) -> None:
    audit = Audit(store)
    for number in range(3):
        audit.add(event(number))
    audit.close()
    (key,) = store.list(FOLDER)
    lines = store.read(key).decode().splitlines()
    store.write(key, "\n".join(change(lines)).encode())  # type: ignore[operator]
    _, found = audit_findings(store)
    assert re.search(said, "\n".join(found))
    assert bool(found) == bool(said)


def test_an_object_that_is_gone_shows(store: Store) -> None:
    audit = Audit(store)
    for number in range(3):
        audit.add(event(number))
        assert audit.flush()
    audit.close()
    store.delete(list(store.list(FOLDER))[1])
    _, found = audit_findings(store)
    assert len(found) == 1
    assert "after entry 1" in found[0]


def test_a_store_that_takes_none_blocks_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_module, "MOST_WAITING", 10)
    write = store.write

    def denied(key: str, data: bytes, *, create_only: bool = False) -> None:
        raise StoreError("access denied")

    monkeypatch.setattr(store, "write", denied)
    audit = Audit(store)
    began = time.monotonic()
    for number in range(15):
        audit.add(event(number))
    assert time.monotonic() - began < 1
    assert not audit.flush(0.3)
    assert (audit.waiting, audit.trouble) == (10, "access denied")
    assert caplog.text.count("the store takes no audit entries") == 1
    monkeypatch.setattr(store, "write", write)
    assert audit.flush()
    audit.add(event(99))
    audit.close()
    entries = newest(store, 100)
    assert [one.what for one in entries if one.what] == [f"miniature@{n}" for n in (*range(10), 99)]
    lost = [one for one in entries if one.action == "entries lost"]
    assert [one.detail for one in lost] == [{"lost": "5"}]
    assert audit_findings(store) == (12, [])


def test_an_answer_that_is_lost_writes_nothing_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = store.write, []

    def lossy(key: str, data: bytes, *, create_only: bool = False) -> None:
        write(key, data, create_only=create_only)
        if not failed:
            failed.append(key)
            raise StoreError("the connection broke off")

    monkeypatch.setattr(store, "write", lossy)
    audit = Audit(store)
    audit.add(event(1))
    assert audit.flush()
    audit.add(event(2))
    audit.close()
    assert [one.what for one in newest(store, 9)] == ["miniature@1", "miniature@2"]
    assert audit_findings(store) == (2, [])


def test_closing_does_not_wait_for_a_store_that_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(key: str, data: bytes, *, create_only: bool = False) -> None:
        raise StoreError("access denied")

    monkeypatch.setattr(store, "write", denied)
    audit = Audit(store)
    audit.add(event())
    began = time.monotonic()
    audit.close(0.3)
    assert time.monotonic() - began < 2
    assert "1 entries are in this log alone" in caplog.text


def test_floods_of_refusals_are_told_once(client: TestClient, store: Store) -> None:
    wrong = {"authorization": "Bearer vila_wrong"}
    for _ in range(40):
        client.get("/metrics", headers=wrong)
    outcomes = [(action, status) for _, action, _, status in told(client, store)]
    assert outcomes == [("send a token", 401)] * 10 + [("GET /metrics", 429)]


def test_hostile_texts_are_cut_and_stay_one_line(client: TestClient, store: Store) -> None:
    client.post("/x" + "y" * 2000 + "%0Aforged", headers={"origin": "https://evil.example"})
    assert log_of(client).flush()
    (entry,) = newest(store, 9)
    assert len(entry.action) == 300
    (key,) = store.list(FOLDER)
    assert store.read(key).count(b"\n") == 1
