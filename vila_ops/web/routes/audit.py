"""The audit log as a page, for admins."""

from __future__ import annotations

import re

from fastapi import APIRouter, Depends, Request, Response

from vila_ops.web.audit_log import BEFORE, Filter, read_audit
from vila_ops.web.pages import page
from vila_ops.web.roles import Role, needs

router = APIRouter(include_in_schema=False, dependencies=[Depends(needs(Role.admin))])


@router.get("/audit")
def audit(request: Request) -> Response:
    """Show a part of the log. A value in the URL that means nothing is as if it were not there."""
    given = request.query_params
    asked = {name: given.get(name, "").strip()[:64] for name in Filter.model_fields}
    before = given.get("before", "")
    before = before if re.match(BEFORE, before) else ""
    log = request.app.state.access.audit
    return page(
        request,
        "audit.html",
        found=read_audit(request.app.state.watch.store, Filter(**asked), before),
        asked=asked,
        before=before,
        waiting=log.waiting,
        trouble=log.trouble,
    )
