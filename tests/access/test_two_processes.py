"""Two processes of one store, as behind a service: sessions hold in both, and end in both."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.access.provider import SECRET, Provider, config
from tests.web.dashboards import Dashboard
from vila_ops.web.revoked import FRESH_SECONDS
from vila_ops.web.tokens import make_token

HTML = {"accept": "text/html"}


@pytest.fixture
def both(tmp_path: Path, provider: Provider) -> Iterator[list[str]]:
    """Their addresses; people log in with a token or at the provider."""
    values = config(provider).model_dump(mode="json")
    (tmp_path / "oidc.yaml").write_text(yaml.safe_dump(values))
    words = ("--store", tmp_path / "store", "--tokens", tmp_path / "tokens")
    secrets = {"OIDC_CLIENT": SECRET, "OIDC_SIGN": "k" * 64}
    started = []
    try:
        for _ in range(2):
            one = Dashboard(*words, "--oidc", tmp_path / "oidc.yaml", env=secrets, cwd=tmp_path)
            started.append(one)
        yield [f"http://127.0.0.1:{one.port}" for one in started]
        for one in started:
            code, err = one.end(signal.SIGTERM)
            assert (code, "Traceback" in err) == (0, False), err
            assert '"action":"log in"' in err
            for secret in (SECRET, "k" * 64):
                assert secret not in err
    finally:
        for one in started:
            one.process.kill()
            one.process.communicate()


@pytest.fixture
def token(tmp_path: Path) -> str:
    return make_token(tmp_path / "tokens", "ada", "admin")[0]


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', page)
    assert found is not None
    return found.group(1)


@pytest.mark.slow
def test_a_session_ends_everywhere(token: str, both: list[str], provider: Provider) -> None:
    here, there = (httpx.Client(base_url=url, headers=HTML) for url in both)
    with here, there:
        here.post("/login", data={"token": token, "csrf": csrf(here.get("/login").text)})
        cookie = {"cookie": f"vila_session={here.cookies['vila_session']}"}
        assert here.get("/").status_code in (200, 503)
        assert there.get("/audit", headers=cookie).status_code == 200
        # A login at the provider that the other process ends.
        address = here.get("/login/oidc").headers["location"]
        pending = {"cookie": f"vila_oidc={here.cookies['vila_oidc']}"}
        answer = there.get(f"/login/callback?{provider.consent(address)}", headers=pending)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        here.post("/logout", data={"csrf": csrf(here.get("/audit").text)})
        assert here.get("/audit", headers=cookie).status_code == 303
        deadline = time.monotonic() + FRESH_SECONDS + 5
        while there.get("/audit", headers=cookie).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        bearer = {"authorization": f"Bearer {token}"}
        found = here.get("/api/v1/audit?action=log", headers=bearer).json()["entries"]
        assert [(one["who"], one["action"]) for one in reversed(found)] == [
            ("ada", "log in"),
            ("ada@example.org", "log in"),
            ("ada", "log out"),
        ]
        assert len({one["writer"] for one in found}) == 2
