"""Configs of OpenID providers: what is wrong in one is told with its key and a fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vila_core.errors import UserError
from vila_ops.web.oidc_config import load_oidc
from vila_ops.web.roles import Role

GOOD: dict[str, Any] = {
    "issuer": "https://sso.example.com/realms/lab",
    "client_id": "vila",
    "client_secret": {"env": "OIDC_CLIENT"},
    "url": "https://vila.example.com/",
    "roles": {"map": {"ml": "promoter"}, "default": "viewer"},
}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_CLIENT", "a-secret")
    monkeypatch.setenv("OIDC_SHORT", "short")
    monkeypatch.delenv("OIDC_UNSET", raising=False)


def write(tmp_path: Path, values: dict[str, Any]) -> Path:
    path = tmp_path / "oidc.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_good_one(tmp_path: Path) -> None:
    config = load_oidc(write(tmp_path, GOOD))
    assert config.callback == "https://vila.example.com/login/callback"
    assert config.shown == "sso.example.com"
    assert config.roles.map == {"ml": Role.promoter}
    assert "a-secret" not in repr(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"issuer": "http://sso.example.com"}, "issuer: .*is no https:// address"),
        ({"issuer": "https://sso.example.com/?x=1"}, "issuer: .*is no https:// address"),
        ({"issuer": "sso.example.com"}, "issuer: .*is no https:// address"),
        ({"url": "https://example.com/vila"}, "url: .*has no path"),
        ({"url": "http://vila.example.com"}, "url: .*is no https:// address"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": "a-secret"}, "client_secret: "),
        ({"client_secret": {}}, "client_secret: .*one of env: NAME and file: PATH"),
        ({"client_secret": {"env": "OIDC_UNSET"}}, "client_secret: .*OIDC_UNSET is not set"),
        ({"client_secret": {"file": "/nowhere/x"}}, "client_secret: /nowhere/x: .*can't be read"),
        ({"session_key": {"env": "OIDC_SHORT"}}, "session_key: has 5 characters.*openssl rand"),
        ({"roles": {}}, "roles: nobody has one"),
        ({"roles": {"map": {"ml": "chief"}}}, "roles.map.ml: 'chief' .*use one of viewer, runner"),
        ({"rolls": {}}, "rolls: unknown key; did you mean 'roles'"),
        ({"scopes": ["email"]}, "scopes: openid is needed"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"session_hours": 0}, "session_hours"),
        ({"issuer": "https://accounts.google.com"}, "anybody has an account there"),
    ],
)
def test_mistakes(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write(tmp_path, {**GOOD, **change})
    with pytest.raises(UserError, match=said) as caught:
        load_oidc(path)
    assert str(path) in str(caught.value)


def test_google_with_a_domain(tmp_path: Path) -> None:
    google = {"issuer": "https://accounts.google.com", "allow": {"domains": ["example.com"]}}
    assert load_oidc(write(tmp_path, {**GOOD, **google})).allow.domains == ("example.com",)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        load_oidc(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="a mapping"):
        load_oidc(tmp_path / "list.yaml")
