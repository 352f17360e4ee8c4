"""What every answer that is none looks like."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why a request could not be answered."""

    error: str = Field(description="What went wrong, in a few words.")
    detail: str = Field(description="Which value, and what to do about it.")


_WHEN = {
    400: "The request can't be read.",
    401: "Nobody is logged in, and no valid token was sent.",
    403: "The viewer's role does not allow it, or another site's page sent it.",
    404: "There is no such thing.",
    409: "Somebody else changed it first: read it again.",
    413: "The request's body is too large.",
    415: "The body is no `application/json`.",
    422: "A value is not valid.",
    429: "Too many requests: the header Retry-After says when to come back, in seconds.",
    503: "The store does not answer, or what it holds is damaged.",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text} for code, text in _WHEN.items()
}
"""For `APIRouter(responses=ERRORS)`: so that the schema tells of them."""
