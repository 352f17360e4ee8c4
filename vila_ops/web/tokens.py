"""Static tokens: a file of their hashes, with whom each belongs to and what that one may do.

    NAME:ROLE:sha256:HEX     a token of that name; the token itself is nowhere
    NAME:sha256:HEX          the same of a viewer
    session-key:HEX          signs sessions; processes that share the file accept each other's

Tokens are 256 random bits, so that a plain sha256 can't be turned back. Without a session key each
process makes one of its own, and its sessions end with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from vila_core.errors import UserError
from vila_ops.web.roles import Role, Viewer

ROLES = ", ".join(role.name for role in Role)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY = "session-key"


@dataclass(frozen=True)
class Token:
    """A line of the file."""

    viewer: Viewer
    digest: bytes

    @property
    def mark(self) -> str:
        """The start of the digest: ties a session to its token, and tells nothing about it."""
        return self.digest[:8].hex()


@dataclass(frozen=True)
class TokenFile:
    """What a file of tokens held when it was read."""

    tokens: tuple[Token, ...]
    key: bytes


class Tokens:
    """The tokens of a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises UserError when it can't be used."""
        self._path = path
        self._own_key = secrets.token_bytes(32)
        self._seen = _stamp(path)
        self._file = _parse(path, self._own_key)
        if not self._file.tokens:
            raise UserError(
                f"{path}: holds no token, nobody could log in; "
                f"fix: vila dashboard token --name NAME --file {path}"
            )

    def of(self, token: str) -> Token | None:
        """Return the line of a token. All are compared, in a time that tells nothing."""
        given = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = None
        for one in self._current().tokens:
            if hmac.compare_digest(given, one.digest):
                found = one
        return found

    def marked(self, name: str, mark: str) -> Token | None:
        """Return the token that a session began with, if it is still in the file."""
        for one in self._current().tokens:
            if one.viewer.name == name and hmac.compare_digest(one.mark, mark):
                return one
        return None

    def key(self) -> bytes:
        """Return what signs sessions."""
        return self._current().key

    def _current(self) -> TokenFile:
        # A file that is just being replaced, or is broken, leaves what was read before in force.
        with contextlib.suppress(OSError, UserError):
            stamp = _stamp(self._path)
            if stamp != self._seen:
                self._file = _parse(self._path, self._own_key)
                self._seen = stamp
        return self._file


def make_token(path: Path | None, name: str, role: str = "viewer") -> tuple[str, str]:
    """Return a new token and its line; with a path, add the line (and a session key) to the file.

    Raises UserError for an unusable name, one that is taken, an unknown role, or a file that can't
    be written.
    """
    if not _NAME.fullmatch(name) or name == _KEY:
        raise UserError(
            f"--name {name!r}: use letters, digits, '.', '_', '@' and '-' (at most 64)."
        )
    if role not in Role.__members__:
        raise UserError(f"--role {role!r}: is none; use one of {ROLES}.")
    token = f"vila_{secrets.token_urlsafe(32)}"
    line = f"{name}:{role}:sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    if path is None:
        return token, line
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before:
            taken = _parse(path, b"")
            if name in [one.viewer.name for one in taken.tokens]:
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
    tokens, key = [], own_key
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, *rest = text.split(":")
        if name == _KEY and len(rest) == 1 and re.fullmatch(r"[0-9a-f]{32,}", rest[0]):
            key = bytes.fromhex(rest[0][: len(rest[0]) // 2 * 2])
            continue
        role, *rest = rest if len(rest) == 3 else ["viewer", *rest]
        if (
            _NAME.fullmatch(name)
            and role in Role.__members__
            and len(rest) == 2
            and rest[0] == "sha256"
            and re.fullmatch(r"[0-9a-f]{64}", rest[1])
        ):
            tokens.append(Token(Viewer(name, Role[role]), bytes.fromhex(rest[1])))
        else:
            raise UserError(
                f"{path}, line {number}: is no token; fix: a line as 'vila dashboard token' "
                f"prints it, NAME:ROLE:sha256:HEX; roles are {ROLES}"
            )
    return TokenFile(tuple(tokens), key)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()  # through links: Kubernetes swaps one when a Secret changes
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
