"""Logging in at an OpenID provider that runs here, and what an attacker tries."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import RSAKey
from starlette.testclient import TestClient

from tests.access.provider import CLIENT, SECRET, URL, Provider, config
from tests.web.dashboards import client_of, refresh
from vila_core.store import Store
from vila_ops.web import oidc as oidc_module
from vila_ops.web.app import create_app
from vila_ops.web.oidc import Provider as Client

HTML = {"accept": "text/html"}
SESSION = "__Host-vila_session"
PENDING = "__Host-vila_oidc"


def browser(store: Store, provider: Provider, **more: Any) -> TestClient:
    app = create_app(store, None, Client(config(provider, **more)))
    app.state.watch.start = lambda: None
    refresh(app)
    return TestClient(app, base_url=URL, follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def client(store: Store, provider: Provider, secret: None) -> TestClient:
    return browser(store, provider)


def begin(client: TestClient, goal: str = "/") -> str:
    answer = client.get("/login/oidc", params={"next": goal})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def log_in(client: TestClient, provider: Provider, goal: str = "/") -> Any:
    query = provider.consent(begin(client, goal))
    # The browser comes from the provider's site.
    return client.get(f"/login/callback?{query}", headers={"sec-fetch-site": "cross-site"})


def refused(client: TestClient, provider: Provider) -> str:
    answer = log_in(client, provider)
    assert answer.status_code == 403, answer.text
    assert SESSION not in client.cookies
    assert client.get("/", headers=HTML).status_code == 303
    found = re.search(r'role="alert">(.*?)</div>', answer.text)
    assert found is not None
    return found.group(1)


def test_a_login(client: TestClient, provider: Provider) -> None:
    page = client.get("/runs/x", headers=HTML)
    assert page.headers["location"] == "/login?next=%2Fruns%2Fx"
    page = client.get(page.headers["location"])
    assert 'href="/login/oidc?next=%2Fruns%2Fx">Log in at the lab</a>' in page.text
    assert 'name="token"' not in page.text, "there are no tokens here"
    assert client.post("/login", data={"token": "x"}).status_code == 404
    answer = log_in(client, provider, "/runs/x")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/x")
    cookies = {one.split("=")[0]: one for one in answer.headers.get_list("set-cookie")}
    for part in ("HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=28800"):
        assert part in cookies[SESSION]
    assert "Max-Age=0" in cookies[PENDING]
    page = client.get("/")
    assert page.status_code == 200
    assert "ada@example.org" in page.text
    assert 'title="role: promoter"' in page.text


def test_the_request_at_the_provider(client: TestClient, provider: Provider) -> None:
    first, second = (
        {name: values[0] for name, values in parse_qs(urlsplit(begin(client)).query).items()}
        for _ in range(2)
    )
    assert first["scope"] == "openid email profile"
    assert first["client_id"] == CLIENT
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name], "new for every login"
        assert len(first[name]) >= 32
    assert not any(SECRET in path for path in provider.asked)
    pending = client.cookies[PENDING]
    shown = base64.urlsafe_b64decode(pending.split(".")[0] + "==")
    assert json.loads(shown).keys() == {"state", "goal", "until"}
    assert first["nonce"].encode() not in shown, "who has the cookie still can't forge a login"


@pytest.mark.parametrize("goal", ["//evil.example", "https://evil.example", "/\\evil", "/\nx"])
def test_a_login_leads_nowhere_else(client: TestClient, provider: Provider, goal: str) -> None:
    assert log_in(client, provider, goal).headers["location"] == "/"


def test_another_process_with_the_same_key_ends_the_login(
    store: Store, provider: Provider, client: TestClient
) -> None:
    query = provider.consent(begin(client))
    other = browser(store, provider)
    other.cookies.update(client.cookies)
    assert other.get(f"/login/callback?{query}").status_code == 303
    assert other.get("/", headers=HTML).status_code == 200


def test_state_of_another_browser_and_replays(client: TestClient, provider: Provider) -> None:
    query = provider.consent(begin(client))
    victim = TestClient(client.app, base_url=URL, follow_redirects=False)
    begin(victim)
    for one in (victim, TestClient(client.app, base_url=URL, follow_redirects=False)):
        answer = one.get(f"/login/callback?{query}")
        assert answer.status_code == 403
        assert "begun in another browser" in answer.text
        assert SESSION not in one.cookies
    begin(client)
    assert client.get(f"/login/callback?{query}").status_code == 403, "an older state"
    pending_query = provider.consent(begin(client))
    pending = client.cookies[PENDING]
    assert client.get(f"/login/callback?{pending_query}").status_code == 303
    client.cookies.clear()
    assert client.get(f"/login/callback?{pending_query}").status_code == 403, "its cookie is gone"
    client.cookies.set(PENDING, pending, domain="vila.example.org")
    answer = client.get(f"/login/callback?{pending_query}")
    assert "was ended already" in answer.text
    assert (answer.status_code, SESSION in client.cookies) == (403, False)


def test_a_code_is_good_once(client: TestClient, provider: Provider) -> None:
    """An attacker who saw a code can't use it with a login of his own: PKCE, and the provider."""
    query = parse_qs(provider.consent(begin(client)))
    attacker = TestClient(client.app, base_url=URL, follow_redirects=False)
    own = parse_qs(provider.consent(begin(attacker)))
    stolen = {"code": query["code"][0], "state": own["state"][0]}
    answer = attacker.get("/login/callback", params=stolen)
    assert answer.status_code == 403
    assert "takes this code not, or not again: invalid_grant" in answer.text


def test_a_login_takes_ten_minutes_at_most(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = provider.consent(begin(client))
    pending = client.cookies[PENDING]
    later = time.time() + oidc_module.LOGIN_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    client.cookies.set(PENDING, pending, domain="vila.example.org")
    answer = client.get(f"/login/callback?{query}")
    assert (answer.status_code, "longer than 10 minutes" in answer.text) == (403, True)


def test_what_the_provider_refuses(client: TestClient, provider: Provider) -> None:
    asked = parse_qs(urlsplit(begin(client)).query)
    denied = {"error": "access_denied<script>", "state": asked["state"][0]}
    answer = client.get("/login/callback", params=denied)
    assert answer.status_code == 403
    assert "the provider says: access_denied&lt;script&gt;" in answer.text
    asked = parse_qs(urlsplit(begin(client)).query)
    assert client.get("/login/callback", params={"state": asked["state"][0]}).status_code == 403
    query = provider.consent(begin(client), iss="https://evil.example")
    assert "another provider answered" in client.get(f"/login/callback?{query}").text
    query = provider.consent(begin(client), iss=provider.issuer)
    assert client.get(f"/login/callback?{query}").status_code == 303


def test_keys_are_rotated(client: TestClient, provider: Provider) -> None:
    assert log_in(client, provider).status_code == 303
    provider.rotate("two")
    known = client.app.state.access.oidc  # type: ignore[attr-defined]
    answer = log_in(client, provider)
    assert answer.status_code == 403, "keys were asked for a moment ago"
    known._keys_at -= 31
    assert log_in(client, provider).status_code == 303
    asked = provider.asked.count("/realms/lab/keys")
    strange = RSAKey.generate_key(2048)
    provider.forge = lambda claims: provider.sign(claims, strange, kid="mine")
    known._keys_at -= 31
    for _ in range(3):
        assert log_in(client, provider).status_code == 403
    assert provider.asked.count("/realms/lab/keys") == asked + 1, "not for every unknown key"


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/.well-known/openid-configuration", (500, b""), "answers with status 500"),
        ("/.well-known/openid-configuration", (302, b""), "answers with status 302"),
        ("/.well-known/openid-configuration", (200, b"<html>"), "no JSON object"),
        ("/.well-known/openid-configuration", (200, b"[" * 100_000), "no JSON object"),
        ("/.well-known/openid-configuration", (200, b"x" * 2**21), "more than 1 MiB"),
        ("/.well-known/openid-configuration", (200, b'{"issuer": "x"}'), "is of the issuer x"),
        ("/keys", (200, b"{}"), "no keys"),
        ("/keys", (503, b"{}"), "status 503"),
        ("/token", (401, b'{"error": "invalid_client"}'), "does not take our client_id and secret"),
        ("/token", (200, b"no"), "no JSON object"),
    ],
)
def test_a_provider_that_is_broken(
    client: TestClient, provider: Provider, path: str, answer: tuple[int, bytes], said: str
) -> None:
    provider.answers[f"/realms/lab{path}"] = answer
    page = client.get("/login/oidc")
    if page.status_code == 303:
        page = client.get(f"/login/callback?{provider.consent(page.headers['location'])}")
    assert page.status_code == 503
    assert said in page.text
    assert "Try again in a while" in page.text
    provider.answers.clear()
    assert log_in(client, provider).status_code == 303, "it is well again"


def test_a_provider_that_is_away(client: TestClient, provider: Provider) -> None:
    query = provider.consent(begin(client))
    provider.close()
    page = client.get(f"/login/callback?{query}")
    assert page.status_code == 503
    assert "does not answer" in page.text
    assert client.get("/login").status_code == 200


def test_addresses_without_tls_get_no_secrets(client: TestClient, provider: Provider) -> None:
    provider.metadata = {"authorization_endpoint": "http://evil.example/authorize"}
    assert "is no https:// address" in client.get("/login/oidc").text


def test_names_and_roles_from_other_claims(store: Store, provider: Provider, secret: None) -> None:
    provider.person |= {"realm_access": {"roles": ["ops", 3]}}
    roles = {"claim": "realm_access.roles", "map": {"ops": "admin"}}
    client = browser(store, provider, name="preferred_username", roles=roles)
    assert log_in(client, provider).status_code == 303
    page = client.get("/").text
    assert 'title="role: admin">ada<' in page
    assert client.get("/audit").status_code == 200
    people = {"people": {"ADA@example.org": "runner"}, "default": "viewer"}
    client = browser(store, provider, roles=people)
    log_in(client, provider)
    assert 'title="role: runner"' in client.get("/").text
    assert client.get("/audit").status_code == 403
    provider.person["email"] = "eve@example.org"
    log_in(client, provider)
    assert 'title="role: viewer">eve@example.org' in client.get("/").text


@pytest.mark.parametrize(
    ("allow", "good"),
    [
        ({"domains": ["Example.org"]}, True),
        ({"domains": ["ample.org"]}, False),
        ({"domains": ["example.org.evil.example"]}, False),
        ({"emails": ["ADA@example.org"]}, True),
        ({"emails": ["eve@example.org"]}, False),
        ({"emails": ["eve@example.org"], "domains": ["example.org"]}, True),
    ],
)
def test_who_may_log_in(
    store: Store, provider: Provider, secret: None, allow: dict[str, Any], good: bool
) -> None:
    client = browser(store, provider, allow=allow, name="preferred_username")
    if good:
        assert log_in(client, provider).status_code == 303
    else:
        assert "not among those who may log in here" in refused(client, provider)
    provider.person["email_verified"] = False
    client.cookies.clear()
    assert "not among those who may log in here" in refused(client, provider)


def test_groups_from_userinfo(store: Store, provider: Provider, secret: None) -> None:
    del provider.person["groups"]
    client = browser(store, provider, userinfo=True)
    assert log_in(client, provider).status_code == 303
    assert 'title="role: promoter"' in client.get("/").text
    client.cookies.clear()
    provider.userinfo["sub"] = "somebody else"
    assert "tells of somebody else" in refused(client, provider)


def test_clients_with_and_without_secret(store: Store, provider: Provider, secret: None) -> None:
    provider.methods = ["client_secret_post"]
    assert log_in(browser(store, provider), provider).status_code == 303
    provider.public_client = True
    client = browser(store, provider, client_secret=None)
    assert log_in(client, provider).status_code == 303


def test_a_secret_in_a_file_is_read_for_each_use(
    store: Store, provider: Provider, secret: None, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("old\n")
    client = browser(store, provider, client_secret={"file": str(file)})
    page = log_in(client, provider)
    assert (page.status_code, "does not take our client_id and secret" in page.text) == (503, True)
    assert "old" not in page.text.split("role=")[1]
    file.write_text(SECRET + "\n")
    assert log_in(client, provider).status_code == 303


def form(page: str) -> dict[str, str]:
    found = re.search(r'name="csrf" value="(\w+)"', page)
    assert found is not None
    return {"csrf": found.group(1)}


def test_logging_out_here_and_at_the_provider(client: TestClient, provider: Provider) -> None:
    log_in(client, provider)
    cookie = client.cookies[SESSION]
    answer = client.post("/logout", data=form(client.get("/").text))
    assert answer.status_code == 200
    address = f"{provider.issuer}/logout?from=vila&amp;client_id={CLIENT}&amp;post_logout"
    assert f'content="0; url={address}' in answer.text
    assert SESSION not in client.cookies
    client.cookies.set(SESSION, cookie, domain="vila.example.org")
    assert client.get("/", headers=HTML).status_code == 303, "a kept cookie is good no more"


def test_logging_out_here_alone(store: Store, provider: Provider, secret: None) -> None:
    client = browser(store, provider, logout="here")
    log_in(client, provider)
    answer = client.post("/logout", data=form(client.get("/").text))
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_sessions_end_by_time_and_with_the_config(
    client: TestClient, store: Store, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(client, provider)
    cookie = client.cookies[SESSION]
    monkeypatch.setenv("OIDC_SIGN", "x" * 32)
    other = browser(store, provider)
    other.cookies.set(SESSION, cookie, domain="vila.example.org")
    assert other.get("/", headers=HTML).status_code == 303, "another key"
    later = time.time() + 8 * 3600 + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert client.get("/", headers=HTML).status_code == 303


def test_a_forged_token_begins_no_session(client: TestClient, provider: Provider) -> None:
    strange = RSAKey.generate_key(2048)
    provider.forge = lambda claims: provider.sign(claims, strange)
    assert "the ID token is not good" in refused(client, provider)


def test_nothing_is_there_without_a_provider(store: Store) -> None:
    local = client_of(store)
    assert local.get("/login/oidc").status_code == 404
    assert local.get("/login/callback").status_code == 404
