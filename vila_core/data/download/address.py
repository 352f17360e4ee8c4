"""Addresses of images, as they are asked for: only http and https, in plain ASCII."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from vila_core.data.download.reasons import Failure

_MAX_LENGTH = 8000
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:.]{2,45}"
)
_SAFE = "/?&=;:@!$'()*+,~-._[]%|"


@dataclass(frozen=True)
class Address:
    """A parsed address. `target` is path and query; `origin` is what robots.txt speaks for."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: "https://example.org:443"."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def join(self, location: str) -> Address:
        """Return where `location`, relative or not, leads from here. Raises Failure."""
        try:
            return parse(urljoin(self.origin + self.target, location.strip()))
        except ValueError:
            raise Failure("bad address", shown(location)) from None


def parse(text: object) -> Address:
    """Return the parts of an address. Raises Failure, reason "bad address"."""
    if not isinstance(text, str) or not text.strip():
        raise Failure("bad address", "there is none")
    try:
        parts = urlsplit(text.strip())
        scheme, port, host = parts.scheme.lower(), parts.port, parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:  # a port that is no number, brackets that don't close, no IDNA
        raise Failure("bad address", shown(text)) from None
    if scheme not in _PORTS:
        raise Failure("bad address", f"http or https is needed: {shown(text)}")
    if len(text) > _MAX_LENGTH or not _HOST.fullmatch(host):
        raise Failure("bad address", shown(text))
    if parts.username is not None or parts.password is not None:
        raise Failure("bad address", f"it holds a user name: {scheme}://…@{host}")
    try:
        target = quote(parts.path or "/", safe=_SAFE)
        target += f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    except UnicodeEncodeError:  # half of a surrogate pair
        raise Failure("bad address", shown(text)) from None
    target = target if target.startswith("/") else f"/{target}"
    return Address(scheme, host, _PORTS[scheme] if port is None else port, target)


def shown(text: str) -> str:
    """Return a text from outside for a message: short, one line, only what can be stored."""
    return ascii(text[:150])
