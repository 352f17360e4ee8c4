"""Who may look: all that decides it, in one place that the guard and the pages share."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence

from fastapi import Request

from components.registry.users import user_name
from vila_core.store import Store
from vila_ops.web import limits
from vila_ops.web.audit import Audit
from vila_ops.web.limits import Buckets, Network
from vila_ops.web.oidc import Provider
from vila_ops.web.revoked import Revoked
from vila_ops.web.roles import Role, Viewer
from vila_ops.web.sessions import Session, Sessions, cookie_name
from vila_ops.web.tokens import Tokens

COOKIE = "vila_session"
VISIT = "vila_visit"
"""The cookie of a browser that is at the login: it ties the form to that browser."""


class Access:
    """Without tokens and provider everybody at a loopback address is this process's user."""

    def __init__(
        self,
        tokens: Tokens | None = None,
        oidc: Provider | None = None,
        *,
        store: Store | None = None,
        proxies: Sequence[Network] = (),
    ) -> None:
        """Decide by a file of tokens, an OpenID provider, or both; or admit this machine alone.

        The store keeps the audit log and which sessions were logged out.
        """
        self.tokens, self.oidc, self.proxies = tokens, oidc, tuple(proxies)
        self.owner = Viewer(user_name(), Role.admin)
        self.audit = Audit(store)
        self.revoked = Revoked(store)
        self.reads, self.writes = Buckets(limits.READS), Buckets(limits.WRITES)
        self.logins = Buckets(limits.LOGINS)
        self.sessions = Sessions(self._key)
        self._own_key = secrets.token_bytes(32)

    @property
    def guarded(self) -> bool:
        """Whether one has to log in."""
        return self.tokens is not None or self.oidc is not None

    @property
    def url(self) -> str:
        """Where browsers reach the dashboard, if its configuration says so."""
        return self.oidc.config.url if self.oidc else ""

    def _key(self) -> bytes:
        if self.oidc is not None and self.oidc.key is not None:
            return self.oidc.key
        return self.tokens.key() if self.tokens is not None else self._own_key

    def of_bearer(self, token: str) -> Viewer | None:
        """Return whose token a program sent."""
        found = self.tokens.of(token) if self.tokens else None
        return found.viewer if found else None

    async def of_session(self, request: Request) -> Viewer | None:
        """Return whose session a browser's cookie tells of."""
        session = self.session(request)
        if session is None:
            return None
        await self.revoked.fresh()
        if self.revoked.holds(session):
            return None
        if session.via == "token" and self.tokens is not None:
            token = self.tokens.marked(session.name, session.proof)
            return token.viewer if token else None
        if session.via == "oidc" and self.oidc is not None and session.proof in Role.__members__:
            return Viewer(session.name, Role[session.proof])
        return None

    def session(self, request: Request) -> Session | None:
        """Return the session of a browser's cookie, if that is well signed and not over."""
        cookie = request.cookies.get(cookie_name(request, COOKIE), "")
        return self.sessions.read(cookie) if cookie else None

    def csrf(self, request: Request) -> str:
        """Return what a form or script of this session must send back."""
        visit = getattr(request.state, "visit", "") or request.cookies.get(
            cookie_name(request, VISIT), ""
        )
        session = request.cookies.get(cookie_name(request, COOKIE), "")
        return self.sessions.sign(f"csrf {session} {visit if not session else ''}")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
