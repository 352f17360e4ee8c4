"""Text from outside in a model card: it can neither leave its place nor become markup."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 300
_MARKUP = re.compile(
    r"[\\`*\[\]|~!]"  # code, emphasis, links, images, tables
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # not within a word, where it means itself
    r"|:(?=\S)|@(?=[A-Za-z])"  # addresses, which are made links where they stand
    r"|^[-+#=>]"
)
_PLAIN = re.compile(r"[A-Za-z0-9 ._/@:+=,-]+")


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return text on one line, without control and formatting characters, cut where it is long."""
    kept = "".join(
        " " if unicodedata.category(sign) in ("Cc", "Zl", "Zp") else sign
        for sign in str(text)
        if unicodedata.category(sign) not in ("Cf", "Cs", "Co")
    )
    short = " ".join(kept.split())
    return short if len(short) <= longest else short[: longest - 1] + "…"


def prose(text: object, longest: int = LONGEST) -> str:
    """Return text for a Markdown paragraph or table cell: no link, image, HTML or table in it."""
    safe = one_line(text, longest)
    safe = safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    safe = _MARKUP.sub(lambda found: f"\\{found.group()}", safe)
    # A number with a full stop would begin a list, `www.` is made a link where it stands.
    safe = re.sub(r"^(\d+)\.", r"\1\\.", safe)
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found.group()[:-1]}\\.", safe)


def code(text: object) -> str:
    """Return a code span; what can't be in one safely is prose."""
    short = one_line(text)
    return f"`{short}`" if _PLAIN.fullmatch(short) else prose(short)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table; the cells are escaped already."""
    head = list(columns)
    lines = [_row(head), _row("---" for _ in head)]
    return [*lines, *(_row(row) for row in rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def front_matter(values: Mapping[str, Any]) -> str:
    """Return values as the YAML block at the head of a card."""
    import yaml

    # As wide as need be: a folded text could have a line of its own that is `---`.
    text = yaml.safe_dump(_clean(values), sort_keys=False, width=2**30, default_flow_style=False)
    return f"---\n{text}---\n"


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {one_line(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
