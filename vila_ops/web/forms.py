"""Forms: read with a limit, and only where this session's own page sent them."""

from __future__ import annotations

from hmac import compare_digest
from urllib.parse import parse_qs

from fastapi import Request
from starlette.exceptions import HTTPException

from vila_ops.web.pages import csrf

MOST_BYTES = 8192


async def read_form(request: Request) -> dict[str, str]:
    """Return a form's fields. Raises 403 unless it was this session's own form that sent them.

    Browsers name the page that sent a form; the hidden field says the same where they don't.
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
    site = request.headers.get("sec-fetch-site", "same-origin")
    good = compare_digest(fields.get("csrf", "").encode(), csrf(request).encode())
    if not good or site not in ("same-origin", "none"):
        raise HTTPException(403, "the form is from an older session or another page: load it again")
    return fields
