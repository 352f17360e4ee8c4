"""Templates: made once, everything escaped, and the few words that all of them use."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vila_core.errors import StoreError
from vila_ops.cli.render import duration
from vila_ops.web.roles import Role
from vila_ops.web.signed import in_short
from vila_ops.web.watch import Watch


def page(request: Request, template: str, *, code: int = 200, **values: Any) -> HTMLResponse:
    """Return a page. Text that is no text (halves of surrogate pairs) shows as question marks."""
    watch: Watch = request.app.state.watch
    text = (
        _environment()
        .get_template(template)
        .render(
            **values,
            store=watch.store.uri,
            viewer=getattr(request.state, "viewer", None),
            guarded=request.app.state.access.guarded,
            Role=Role,
            csrf=csrf(request),
        )
    )
    return HTMLResponse(text.encode("utf-8", "replace"), status_code=code)


def csrf(request: Request) -> str:
    """Return what a form of this session must send back, or a script as X-CSRF-Token."""
    return request.app.state.access.csrf(request)


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": duration,
        "when": when,
        "number": number,
        "query": query,
        "breaks": breaks,
        "in_short": in_short,
    }
    made.filters |= {"urlencode": path_part, "path": lambda text: quote(text, safe="/")}
    return made


def when(moment: str | datetime | None) -> str | Markup:
    """Return a time in UTC to the second; foreign text as it is."""
    if not moment:
        return ""
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        utc = found.astimezone(UTC)
    except (ValueError, OverflowError):
        return str(moment)
    shown = f"{utc:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(), shown)


def number(value: object) -> str:
    """Return a number in at most five digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or value.is_integer():
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}"


def breaks(name: str) -> Markup:
    """Return a long name that lines may break after its `_`, `/` and `.`."""
    return Markup("").join(
        Markup("{}<wbr>").format(part) if part in ("_", "/", ".") else part
        for part in re.split(r"([_/.])", name)
    )


def path_part(value: object) -> str:
    """Return a name as one part of a link's path."""
    return quote(str(value).encode("utf-8", "replace"), safe="")


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """Return the query of a link to the same page with some values changed; empty ones left out."""
    merged = {**values, **changes}
    kept = [(name, value) for name, value in merged.items() if value not in ("", None, (), [])]
    return "?" + urlencode(kept, doseq=True, errors="replace")


def require_text(value: object) -> str:
    """Return text; raises StoreError for what no record of ours holds."""
    if not isinstance(value, str):
        raise StoreError(f"the record is not ours: text is needed, found {type(value).__name__}")
    return value
