"""`/api/v1/audit`: the audit log, for programs of an admin."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from vila_ops.web.api.problem import ERRORS
from vila_ops.web.audit import Entry
from vila_ops.web.audit_log import BEFORE, Filter, read_audit
from vila_ops.web.roles import Role, needs

router = APIRouter(
    prefix="/api/v1", responses=ERRORS, tags=["audit"], dependencies=[Depends(needs(Role.admin))]
)


class AuditPage(BaseModel):
    """A part of the audit log, newest first."""

    entries: list[Entry]
    older: str | None = Field(description="`before` of the next page; null at the end.")
    unreadable: list[str] = Field(description="Objects that are no entries of ours, or damaged.")
    waiting: int = Field(description="Entries of this process that the store does not have yet.")


@router.get("/audit", summary="Who did what, when, from where")
def audit(
    request: Request,
    wanted: Annotated[Filter, Query()],
    before: Annotated[str, Query(pattern=BEFORE, description="`older` of the page before.")] = "",
) -> AuditPage:
    """Return the newest entries that fit; each filter is a part of a text, in any case."""
    found = read_audit(request.app.state.watch.store, wanted, before)
    return AuditPage(
        entries=list(found.entries),
        older=found.older,
        unreadable=list(found.unreadable),
        waiting=request.app.state.access.audit.waiting,
    )
