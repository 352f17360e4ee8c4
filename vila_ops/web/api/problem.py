"""What every answer that is none looks like."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """Why a request could not be answered."""

    error: str
    """What went wrong, in a few words."""
    detail: str
    """Which value, and what to do about it."""


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 403, 404, 409, 422, 429, 503)
}
"""For `APIRouter(responses=ERRORS)`: so that the schema tells of them."""
