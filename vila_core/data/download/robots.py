"""robots.txt by RFC 9309: groups by crawler, the longest rule wins, `*` and `$` in paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from vila_core.data.download.consent import NAMES

MAX_BYTES = 500 * 1024
"""RFC 9309 lets crawlers stop reading here."""
_MAX_RULES = 10_000
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_SAFE = "/?&=;:@!$'()*+,~-._[]#%"


@dataclass
class _Group:
    rules: list[tuple[str, bool]] = field(default_factory=list)  # pattern, allowed
    delay_s: float = 0.0


@dataclass(frozen=True)
class Rules:
    """What a robots.txt says to us."""

    groups: tuple[_Group, ...] = ()

    @property
    def delay_s(self) -> float:
        """Seconds that the owner wants between two requests."""
        return max((group.delay_s for group in self.groups), default=0.0)

    def allow(self, path: str) -> bool:
        """Return whether `path` (with its query) may be fetched: by every group that means us."""
        path = _canonical(path)
        return all(_allows(group.rules, path) for group in self.groups)


def parse(data: bytes) -> Rules:
    """Return what a robots.txt says to `NAMES`: their groups, or else the one for everybody."""
    found: dict[str, _Group] = {}
    current: list[_Group] = []
    in_rules = True
    for name, value in _fields(data):
        if name == "user-agent":
            if in_rules:
                current, in_rules = [], False
            product = _product(value)
            if product in NAMES:
                current.append(found.setdefault(product, _Group()))
            continue
        in_rules = True
        for group in current:
            if name in ("allow", "disallow") and value and len(group.rules) < _MAX_RULES:
                group.rules.append((_canonical(value), name == "allow"))
            elif name == "crawl-delay":
                group.delay_s = max(group.delay_s, _seconds(value))
    named = tuple(group for name, group in sorted(found.items()) if name != "*")
    everybody = found.get("*")
    return Rules(named or ((everybody,) if everybody else ()))


def _product(value: str) -> str:
    match = re.match(r"\*|[A-Za-z0-9_-]+", value)
    return match.group().lower() if match else ""


def _fields(data: bytes) -> Iterable[tuple[str, str]]:
    for line in data[:MAX_BYTES].decode("utf-8-sig", "replace").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0


def _canonical(path: str) -> str:
    """Return a path with its escapes in one form, so that `%7E` and `~` compare equal."""

    def plain(match: re.Match[str]) -> str:
        letter = unquote(match.group())
        return letter if re.fullmatch(r"[A-Za-z0-9._~-]", letter) else match.group().upper()

    return _ESCAPED.sub(plain, quote(path, safe=_SAFE))


def _allows(rules: list[tuple[str, bool]], path: str) -> bool:
    best, allowed = -1, True
    for pattern, allow in rules:
        size = len(pattern)
        if (size > best or (size == best and allow)) and _matches(pattern, path):
            best, allowed = size, allow
    return allowed


def _matches(pattern: str, path: str) -> bool:
    """Compare without regular expressions: a pattern full of stars must not take for ever."""
    end = pattern.endswith("$")
    first, *others = (pattern[:-1] if end else pattern).split("*")
    if not path.startswith(first):
        return False
    if not others:
        return not end or len(path) == len(first)
    place = len(first)
    for piece in others[:-1]:
        place = path.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    last = others[-1]
    if end:
        return len(path) - len(last) >= place and path.endswith(last)
    return path.find(last, place) >= 0
