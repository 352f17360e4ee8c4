"""Forms and JSON: read with a limit, and only where this session's own page sent them."""

from __future__ import annotations

from hmac import compare_digest
from urllib.parse import parse_qs

from fastapi import Request
from starlette.exceptions import HTTPException

from vila_ops.web.pages import csrf

MOST_BYTES = 8192
_OTHER = "the form is from an older session or another page: load it again"


async def read_form(request: Request) -> dict[str, str]:
    """Return a form's fields. Raises 403 unless it was this session's own form that sent them.

    The guard has refused already what browsers call another site's; the hidden field `csrf` says
    the same where they don't.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, "the form is too large")
    try:
        parsed = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise HTTPException(400, "this is no form") from None
    fields = {name: values[-1] for name, values in parsed.items()}
    if not _ours(request, fields.get("csrf", "")):
        raise HTTPException(403, _OTHER)
    return fields


async def checked_json(request: Request) -> None:
    """Pass JSON of a program, or of this session's own page. For routers of `/api/v1` that write:

        router = APIRouter(..., dependencies=[Depends(checked_json)])

    A script of ours sends the header X-CSRF-Token, with the content of `<meta name="csrf">`. A
    program that sends a bearer token needs none: no browser sends that one by itself. Nor does one
    that reaches an unguarded dashboard: a page elsewhere can't send this content type unasked.
    Raises 415 for another content type, 403 for another page's request.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON, with Content-Type: application/json")
    bearer = request.headers.get("authorization", "").lower().startswith("bearer ")
    by_cookie = request.app.state.access.guarded and not bearer
    if by_cookie and not _ours(request, request.headers.get("x-csrf-token", "")):
        raise HTTPException(403, _OTHER)


def _ours(request: Request, given: str) -> bool:
    return compare_digest(given.encode("utf-8", "replace"), csrf(request).encode())
