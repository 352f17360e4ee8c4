"""How the dashboard uses an OpenID provider: who may log in, and which role they have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from vila_core.config import Frozen, read_yaml, validate
from vila_core.errors import UserError
from vila_ops.web.roles import Role

OPEN_TO_ALL = ("https://accounts.google.com", "https://login.microsoftonline.com/common/v2.0")
"""Providers where anybody has an account: some must be named."""
SHORTEST_KEY = 32


def _role(value: object) -> Role:
    if isinstance(value, str) and value in Role.__members__:
        return Role[value]
    raise ValueError(f"it is no role; use one of {', '.join(role.name for role in Role)}")


def _web(value: str) -> str:
    """A URL that secrets may be sent to: TLS, or this machine."""
    parts = urlsplit(value)
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"):
        return value
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("it is no https:// address without query")
    return value


def _origin(value: str) -> str:
    if urlsplit(_web(value)).path not in ("", "/"):
        raise ValueError("the dashboard has no path: give https://HOST alone")
    return value.rstrip("/")


RoleName = Annotated[
    Role, BeforeValidator(_role), PlainSerializer(lambda role: role.name, return_type=str)
]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]


class SecretFrom(Frozen):
    """Where a secret is: the config itself holds none."""

    env: str = ""
    """The name of an environment variable."""
    file: Path | None = None
    """A file that holds nothing else; it is read again for every use."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.env) == (self.file is not None):
            raise ValueError("give one of env: NAME and file: PATH")
        return self

    def read(self) -> str:
        """Return the secret. Raises UserError when it is not there."""
        if self.file is None:
            value = os.environ.get(self.env, "").strip()
            if not value:
                raise UserError(f"the environment variable {self.env} is not set, or is empty.")
            return value
        try:
            value = self.file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UserError(f"{self.file}: the secret can't be read: {reason}") from None
        if not value:
            raise UserError(f"{self.file}: is empty, a secret was expected.")
        return value


class Roles(Frozen):
    """From claims to roles; whoever has several gets the one that may do most."""

    claim: str = "groups"
    """The claim with groups; `a.b` leads into nested ones, such as realm_access.roles."""
    map: Mapping[str, RoleName] = Field(default_factory=dict)
    """Group to role."""
    people: Mapping[str, RoleName] = Field(default_factory=dict)
    """E-mail address to role, for providers that tell no groups."""
    default: RoleName | None = None
    """Of those that nothing above names; without one they may not log in."""


class Allow(Frozen):
    """Who may log in at all, by e-mail address; nothing here means everybody that has a role."""

    domains: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()


class OidcConfig(Frozen):
    """A client registered with a provider, as authorization code flow with PKCE."""

    issuer: Annotated[str, AfterValidator(_web)]
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretFrom | None = None
    """Without one it is a public client: PKCE alone ties the code to us."""
    url: Annotated[str, AfterValidator(_origin)]
    """Where browsers reach the dashboard; register URL/login/callback with the provider."""
    label: str = ""
    """On the button of the login page; by default the issuer's host."""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    name: str = "email"
    """The claim that names who acts, in the history and the audit log."""
    trust_email: bool = False
    """Take addresses that the provider does not call verified: only where it makes them itself."""
    userinfo: bool = False
    """Ask for more claims there, where the ID token lacks groups."""
    roles: Roles = Roles()
    allow: Allow = Allow()
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256")
    session_hours: Annotated[float, Field(gt=0, le=720)] = 8.0
    session_key: SecretFrom | None = None
    """Signs sessions: several processes need the same one."""
    logout: Literal["provider", "here"] = "provider"
    """Whether logging out here leads to the provider's logout, if it has one."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        roles, allow = self.roles, self.allow
        if "openid" not in self.scopes:
            raise ValueError("scopes: openid is needed")
        if not (roles.map or roles.people or roles.default):
            raise ValueError("roles: nobody has one; give map, people or default")
        if roles.default and self.issuer in OPEN_TO_ALL and not (allow.domains or allow.emails):
            raise ValueError(
                "anybody has an account there: give allow.domains or allow.emails, "
                "or no roles.default"
            )
        return self

    @property
    def shown(self) -> str:
        """The provider's name on pages."""
        return self.label or urlsplit(self.issuer).hostname or self.issuer

    @property
    def callback(self) -> str:
        """Where the provider sends browsers back to."""
        return f"{self.url}/login/callback"


def load_oidc(path: Path) -> OidcConfig:
    """Read a config, and see that its secrets are there. Raises UserError."""
    config = validate(OidcConfig, read_yaml(path), where=str(path))
    for name in ("client_secret", "session_key"):
        source: SecretFrom | None = getattr(config, name)
        if source is None:
            continue
        try:
            value = source.read()
        except UserError as error:
            raise UserError(f"{path}: {name}: {error}") from None
        if name == "session_key" and len(value) < SHORTEST_KEY:
            raise UserError(
                f"{path}: session_key: has {len(value)} characters, {SHORTEST_KEY} are needed; "
                "fix: openssl rand -hex 32"
            )
    return config


class NotAllowed(Exception):
    """The provider knows who it is, but the config lets them not in."""


def person(config: OidcConfig, claims: Mapping[str, Any]) -> tuple[str, Role]:
    """Return the name and the role of those whose claims are proven. Raises NotAllowed."""
    email = _email(config, claims)
    name = email if config.name == "email" else _text(claims.get(config.name))
    if not name:
        why = " that is verified" if config.name == "email" else ""
        raise NotAllowed(f"the provider tells no '{config.name}'{why}")
    _check_allowed(config.allow, email, name)
    roles = [config.roles.map[group] for group in _groups(config, claims)]
    named = {address.casefold(): role for address, role in config.roles.people.items()}
    if email.casefold() in named:
        roles.append(named[email.casefold()])
    if not roles and config.roles.default is not None:
        roles.append(config.roles.default)
    if not roles:
        raise NotAllowed(f"{name} is in no group that has a role here")
    return name, max(roles)


def _check_allowed(allow: Allow, email: str, name: str) -> None:
    if not allow.domains and not allow.emails:
        return
    address = email.casefold()
    domain = address.rpartition("@")[2]
    if address in [one.casefold() for one in allow.emails]:
        return
    if address and domain in [one.casefold().lstrip("@") for one in allow.domains]:
        return
    raise NotAllowed(f"{name} is not among those who may log in here")


def _email(config: OidcConfig, claims: Mapping[str, Any]) -> str:
    address = _text(claims.get("email"))
    # Some providers write the truth as text.
    verified = config.trust_email or claims.get("email_verified") in (True, "true")
    return address if verified and re.fullmatch(r"[^@\s]+@[^@\s]+", address) else ""


def _groups(config: OidcConfig, claims: Mapping[str, Any]) -> Iterator[str]:
    value: Any = claims.get(config.roles.claim)
    if value is None:
        value = claims
        for part in config.roles.claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    for group in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
        if isinstance(group, str) and group in config.roles.map:
            yield group


def _text(value: object) -> str:
    good = isinstance(value, str) and value.isprintable() and len(value) <= 128
    return str(value).strip() if good else ""
