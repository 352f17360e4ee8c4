"""Sessions of browsers: a signed cookie that names who logged in, how, and until when."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request

HOURS = 12.0
_MOST_CHARACTERS = 4096  # no browser keeps a longer cookie


@dataclass(frozen=True)
class Session:
    """Who logged in. Times are seconds since 1970."""

    name: str
    via: str
    """How: "token" or "oidc"."""
    proof: str
    """The mark of the token that was shown, or the role that the provider's claims gave."""
    id: str
    began: float
    until: float


class Sessions:
    """Makes cookies that only holders of the key can make."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        """Sign with what `key` returns; it may change, which ends the sessions before."""
        self._key = key

    def begin(self, name: str, via: str, proof: str, hours: float = HOURS) -> str:
        """Return the cookie of a new session."""
        now = time.time()
        return self.seal(
            "session",
            asdict(Session(name, via, proof, secrets.token_hex(16), now, now + hours * 3600)),
        )

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie: well signed and not over. Tells nothing of its end."""
        held = self.open("session", cookie)
        try:
            session = Session(**held) if held is not None else None
        except TypeError:  # signed, but by another version
            return None
        return session if session is not None and session.until > time.time() else None

    def seal(self, purpose: str, value: dict[str, Any]) -> str:
        """Return a value as signed text; it can be read by all, and made for that purpose alone."""
        body = base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
        return f"{body}.{self.sign(f'{purpose} {body}')}"

    def open(self, purpose: str, text: str) -> dict[str, Any] | None:
        """Return what `seal` was given; None for what it did not make."""
        body, _, signature = text[:_MOST_CHARACTERS].partition(".")
        good = self.sign(f"{purpose} {body}").encode()
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), good):
            return None
        try:
            value = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error):
            return None
        return value if isinstance(value, dict) else None

    def sign(self, text: str) -> str:
        """Return a signature in hexadecimal."""
        return hmac.new(self._key(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def cookie_name(request: Request, name: str) -> str:
    """Return a cookie's name: behind TLS one that no other host and no plain HTTP can set."""
    return f"__Host-{name}" if behind_tls(request) else name


def behind_tls(request: Request) -> bool:
    """Return whether the browser speaks TLS with us, or with a proxy before us.

    A browser that lies about it has only its own cookies named wrongly.
    """
    return "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto", ""))
