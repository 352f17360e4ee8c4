"""Who may look: a file of hashed tokens, and the sessions of browsers that showed one.

    NAME:sha256:HEX          a token of that name; the token itself is nowhere
    session-key:HEX          signs sessions; processes that share the file accept each other's

Tokens are 256 random bits, so that a plain sha256 can't be turned back. Without a session key each
process makes one of its own, and its sessions end with it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from vila_core.errors import UserError

SESSION_SECONDS = 12 * 3600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY = "session-key"


@dataclass(frozen=True)
class TokenFile:
    """What a file of tokens held when it was read."""

    hashes: tuple[tuple[str, bytes], ...]
    key: bytes


class Tokens:
    """The tokens of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises UserError when it can't be used."""
        self._path = path
        self._own_key = secrets.token_bytes(32)
        self._seen = _stamp(path)
        self._file = _parse(path, self._own_key)
        if not self._file.hashes:
            raise UserError(
                f"{path}: holds no token, nobody could log in; "
                f"fix: vila dashboard token --name NAME --file {path}"
            )

    def name_of(self, token: str) -> str | None:
        """Return whose token this is. All are compared, in a time that tells nothing."""
        given = hashlib.sha256(token.encode()).digest()
        found = None
        for name, kept in self._current().hashes:
            if hmac.compare_digest(given, kept):
                found = name
        return found

    def session(self, token: str) -> str | None:
        """Return the value of a session's cookie for a valid token."""
        name = self.name_of(token)
        if name is None:
            return None
        mark = hashlib.sha256(token.encode()).digest()[:8].hex()
        text = f"{name}|{mark}|{int(time.time()) + SESSION_SECONDS}|{secrets.token_hex(8)}"
        body = base64.urlsafe_b64encode(text.encode()).decode()
        return f"{body}.{self.sign(body)}"

    def name_of_session(self, cookie: str) -> str | None:
        """Return whose session this is: well signed, not over, and its token still in the file."""
        body, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature.encode(), self.sign(body).encode()):
            return None
        with contextlib.suppress(ValueError, binascii.Error):
            text = base64.urlsafe_b64decode(body.encode()).decode()
            name, mark, until, _ = text.split("|")
            here = [one for one, kept in self._current().hashes if kept[:8].hex() == mark]
            if name in here and int(until) > time.time():
                return name
        return None

    def sign(self, text: str) -> str:
        """Return a signature that only holders of the session key can make."""
        return hmac.new(self._current().key, text.encode(), hashlib.sha256).hexdigest()

    def _current(self) -> TokenFile:
        # A file that is just being replaced, or is broken, leaves what was read before in force.
        with contextlib.suppress(OSError, UserError):
            stamp = _stamp(self._path)
            if stamp != self._seen:
                self._file = _parse(self._path, self._own_key)
                self._seen = stamp
        return self._file


def make_token(path: Path | None, name: str) -> tuple[str, str]:
    """Return a new token and its line; with a path, add the line (and a session key) to the file.

    Raises UserError for an unusable name, one that is taken, or a file that can't be written.
    """
    if not _NAME.fullmatch(name) or name == _KEY:
        raise UserError(
            f"--name {name!r}: use letters, digits, '.', '_', '@' and '-' (at most 64)."
        )
    token = f"vila_{secrets.token_urlsafe(32)}"
    line = f"{name}:sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    if path is None:
        return token, line
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before:
            taken = _parse(path, b"")
            if name in [one for one, _ in taken.hashes]:
                raise UserError(
                    f"{path}: has a token named '{name}' already; fix: take out its line."
                )
        else:
            before = f"{_KEY}:{secrets.token_hex(32)}\n"
        if not before.endswith("\n"):
            before += "\n"
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{before}{line}\n")
        aside.replace(path)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}") from None
    return token, line


def _parse(path: Path, own_key: bytes) -> TokenFile:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(
            f"{path}: the tokens can't be read: {reason}; "
            f"fix: vila dashboard token --name NAME --file {path}"
        ) from None
    hashes, key = [], own_key
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, *rest = text.split(":")
        if name == _KEY and len(rest) == 1 and re.fullmatch(r"[0-9a-f]{32,}", rest[0]):
            key = bytes.fromhex(rest[0][: len(rest[0]) // 2 * 2])
        elif (
            _NAME.fullmatch(name)
            and len(rest) == 2
            and rest[0] == "sha256"
            and re.fullmatch(r"[0-9a-f]{64}", rest[1])
        ):
            hashes.append((name, bytes.fromhex(rest[1])))
        else:
            raise UserError(
                f"{path}, line {number}: is no token; fix: a line as 'vila dashboard token' "
                "prints it, NAME:sha256:HEX"
            )
    return TokenFile(tuple(hashes), key)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()  # through links: Kubernetes swaps one when a Secret changes
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
