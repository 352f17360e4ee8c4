"""The registry's pages say of each entry who signed it, and which signature is bad."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from starlette.testclient import TestClient

from components.registry import Registry, keys
from components.registry import signatures as signatures_module
from components.registry.certificates import keep_certificate
from components.registry.signatures import Signatures
from components.registry.verify import check
from tests.browser.watched import DESKTOP, PHONE, watched
from tests.web.dashboards import Dashboard, client_of
from vila_core.store import Store

PAGES = ("/registry/miniature", "/registry/miniature/1", "/registry/miniature/history/3",
         "/registry/miniature/rollback?alias=champion")  # fmt: skip


@pytest.fixture
def store(own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Of the story: entry 1 is nobody's, 2 and 3 are this server's, 4 is ann's, 5 a stranger's."""
    registry = Registry(own_store)
    home = tmp_path / "home"

    def move(who: str, alias: str) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / who))
        if keys.own_key() is None:
            keys.create_key(keys.own_key_path())
        registry.move("miniature", alias, 1, why=f"by {who}", who=who)

    for who, alias in (("own", "champion"), ("own", "second"), ("ann", "third"), ("eve", "fourth")):
        move(who, alias)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "ann"))
    ann = keys.own_key()
    assert ann is not None
    (tmp_path / "ann.pem").write_text(ann.public_pem())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "own"))
    keys.trust(tmp_path / "ann.pem", "ann")
    return own_store


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    with client_of(store) as made:
        yield made


def change(store: Store, place: str, how: Callable[[dict[str, Any]], None]) -> None:
    path = store.local_path(place)
    assert path is not None
    path.chmod(0o644)
    value = json.loads(path.read_text())
    how(value)
    path.write_text(json.dumps(value))


def forge(bundle: dict[str, Any]) -> None:
    """Put other bytes in the signature's place; all else is as it was."""
    (one,) = bundle["dsseEnvelope"]["signatures"]
    one["sig"] = base64.b64encode(bytes(64)).decode()


def told(page: str) -> list[str]:
    """What a page says of each entry in its history."""
    timeline = page[page.index('<ol class="timeline"') :]
    return re.findall(r"</svg> ([^<]*)</span></p>\s*</li>", timeline)


def test_each_entry_says_who_signed_it(client: TestClient) -> None:
    page = client.get("/registry/miniature").text
    assert told(page) == [
        "signed by somebody not trusted", "signed by ann",
        "signed by this server", "signed by this server", "unsigned",
    ]  # fmt: skip
    assert "The chain of 5 entries is whole" in page
    assert "Signatures: 1 unknown key, 1 unsigned, 3 valid." in page
    assert 'role="alert"' not in page
    assert page.count('<svg viewBox="0 0 16 16" aria-hidden="true">') == 5 + 1  # and the version
    for place in PAGES:
        assert client.get(place).status_code == 200
    assert told(client.get("/registry/miniature/history/4").text) == ["signed by ann"]


def test_a_tampered_signature_is_told_and_breaks_nothing_else(
    client: TestClient, store: Store
) -> None:
    before = {place: client.get(place).text for place in PAGES}  # and they are remembered
    assert not any('role="alert"' in page for page in before.values())
    change(store, "registry/miniature/history/3.json", lambda entry: forge(entry["signature"]))
    page = client.get("/registry/miniature").text
    assert told(page)[2:] == ["bad signature", "signed by this server", "unsigned"]
    assert "The chain of 5 entries is whole" in page
    (alert,) = re.findall(r'role="alert">(.*?)</div>', page, re.S)
    assert "An entry of the history of miniature has a bad signature" in alert
    assert (
        'href="/registry/miniature/history/3">entry 3</a>: its signature was not made by' in alert
    )
    assert "vila registry verify miniature" in alert
    for place in PAGES[1:]:
        shown = client.get(place)
        assert shown.status_code == 200
        assert shown.text.count('role="alert"') == 1
        assert "entry 3</a>: its signature was not made by key" in shown.text
    assert 'role="alert"' not in client.get("/registry/miniature/history/4").text
    (finding,) = [one for one in check(store, "miniature", files=False).findings
                  if one.key.endswith("history/3.json")]  # fmt: skip
    assert finding.what.startswith("its signature was not made by key")


def test_a_signature_that_was_made_later_counts_too(client: TestClient, store: Store) -> None:
    own = keys.own_key()
    assert own is not None
    first = Registry(store).history("miniature")[0]
    assert Signatures(store, "miniature").add(first, own)
    assert told(client.get("/registry/miniature").text)[-1] == "signed by this server"
    place = f"registry/miniature/signatures/entry-1-{own.key_id[:16]}.json"
    change(store, place, forge)
    assert told(client.get("/registry/miniature").text)[-1] == "bad signature"


@pytest.mark.parametrize("odd", [{}, {"mediaType": float("nan")}, {"mediaType": "\ud800"}])
def test_signatures_that_are_none(client: TestClient, store: Store, odd: dict[str, Any]) -> None:
    change(store, "registry/miniature/history/2.json", lambda entry: entry.update(signature=odd))
    page = client.get("/registry/miniature")
    assert (page.status_code, told(page.text)[3]) == (200, "bad signature")


def test_keys_that_can_not_be_read_cost_only_what_they_are_for(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_TRUSTED_KEYS", "/nowhere/keys")
    for place in PAGES:
        shown = client.get(place)
        assert shown.status_code == 200
        assert "The signatures can't be checked." in shown.text
        assert "/nowhere/keys: there is no such file" in shown.text
    assert "by eve" in client.get("/registry/miniature").text
    answer = client.get("/api/v1/registry/models/miniature/history").json()
    assert {one["signature"] for one in answer["entries"]} == {"unknown"}


def test_proofs_of_exports_are_shown(client: TestClient, store: Store) -> None:
    version = Registry(store).version("miniature", 1)
    for layout, difference in (("vila15", 1e-6), ("llava", 1e-3)):
        rows = [{"max_abs_difference": difference, "tolerance": 1e-5}]
        keep_certificate(store, version, {"layout": layout, "prompts": rows})
    page = client.get("/registry/miniature/1").text
    told = re.findall(r'<summary>(export as \w+) <span class="badge \w+">(\w+)</span>', page)
    assert told == [("export as llava", "failed"), ("export as vila15", "passed")]
    known = client.get("/api/v1/registry/models/miniature/versions/1").json()
    assert known["exports"]["vila15"]["artifact"] == version.artifact.sha256
    place = "registry/miniature/certificates/1/vila15.json"
    change(store, place, lambda value: value.update(certificate={"layout": "hf"}))
    broken = client.get("/registry/miniature/1")
    assert broken.status_code == 200
    text = unescape(broken.text)
    assert "The certificates can't be read." in text
    assert f"{place} is no certificate (layout 'hf' is not one of llava," in text
    known = client.get("/api/v1/registry/models/miniature/versions/1").json()
    assert (known["exports"], known["exports_problem"][: len(place)]) == ({}, place)


def test_programs_are_told_the_same(client: TestClient, store: Store) -> None:
    change(store, "registry/miniature/history/3.json", lambda entry: forge(entry["signature"]))
    answer = client.get("/api/v1/registry/models/miniature/history").json()
    states = {one["seq"]: one["signature"] for one in answer["entries"]}
    assert states == {1: "unsigned", 2: "valid", 3: "bad", 4: "valid", 5: "unknown key"}
    (bad,) = [one for one in answer["entries"] if one["seq"] == 3]
    assert "its signature was not made by key" in bad["signature_text"]
    assert answer["problem"] == ""


def test_a_signature_is_computed_once(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    examine = signatures_module.examine

    def counted(bundles: Any, statement: Any, trust: Any) -> Any:
        asked.append(next(iter(statement.subjects)))
        return examine(bundles, statement, trust)

    client.get("/registry/miniature")
    monkeypatch.setattr(signatures_module, "examine", counted)
    client.get("/registry/miniature")
    assert asked == []
    change(store, "registry/miniature/history/3.json", lambda entry: forge(entry["signature"]))
    client.get("/registry/miniature")
    assert asked == ["registry/miniature/history/3.json"]
    path = keys.trusted_path() / "ann.pem"
    path.rename(path.with_name("anna.pem"))  # whom one trusts, and under which name, counts too
    assert told(client.get("/registry/miniature").text)[1] == "signed by anna"


@pytest.mark.slow
def test_states_are_accessible_in_both_schemes_and_on_a_phone(
    browser: Browser, store: Store, tmp_path: Path
) -> None:
    change(store, "registry/miniature/history/3.json", lambda entry: forge(entry["signature"]))
    dashboard = Dashboard(env={"VILA_STORE": store.uri}, cwd=tmp_path)
    problems = []
    try:
        for size, scheme in itertools.product((DESKTOP, PHONE), ("light", "dark")):
            url = f"http://127.0.0.1:{dashboard.port}"
            with watched(browser, url, size, scheme) as window:
                for place in PAGES:
                    page = window.open(place)
                    assert page.get_by_role("alert").count() == 1
                    problems += [f"{place}, {scheme}: {one}" for one in window.axe()]
                    if (beyond := window.overflow()) > 0:
                        problems.append(f"{place}: {beyond} px wider than the window")
    finally:
        dashboard.process.kill()
        dashboard.process.communicate()
    assert not problems, "\n".join(problems)
