"""Who may look: all that decides it, in one place that the guard and the pages share."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from fastapi import Request

from components.registry.users import user_name
from vila_ops.web.roles import Role, Viewer
from vila_ops.web.sessions import Session, Sessions, cookie_name
from vila_ops.web.tokens import Tokens

COOKIE = "vila_session"
VISIT = "vila_visit"
"""The cookie of a browser that is at the login: it ties the form to that browser."""


class Access:
    """Without tokens everybody who reaches a loopback address is this process's user."""

    def __init__(self, tokens: Tokens | None = None) -> None:
        """Decide by a file of tokens, or admit this machine alone."""
        self.tokens = tokens
        self.owner = Viewer(user_name(), Role.admin)
        own = secrets.token_bytes(32)
        key: Callable[[], bytes] = (lambda: own) if tokens is None else tokens.key
        self.sessions = Sessions(key)

    @property
    def guarded(self) -> bool:
        """Whether one has to log in."""
        return self.tokens is not None

    def of_bearer(self, token: str) -> Viewer | None:
        """Return whose token a program sent."""
        found = self.tokens.of(token) if self.tokens else None
        return found.viewer if found else None

    def of_session(self, request: Request) -> Viewer | None:
        """Return whose session a browser's cookie tells of."""
        session = self.session(request)
        if session is None or self.tokens is None or session.via != "token":
            return None
        token = self.tokens.marked(session.name, session.proof)
        return token.viewer if token else None

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
