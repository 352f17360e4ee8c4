"""What those who look may do: each role may do all that the ones before it may."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.exceptions import HTTPException


class Role(enum.IntEnum):
    """Compare them: `role >= Role.promoter`."""

    viewer = 1
    """Looks at everything, changes nothing."""
    runner = 2
    """Starts and stops runs."""
    promoter = 3
    """Promotes, rejects, approves, rolls back."""
    admin = 4
    """Promotes past failed gates, reads the audit log."""


@dataclass(frozen=True)
class Viewer:
    """Who looks, as the history of the registry and the audit log name them."""

    name: str
    role: Role


def viewer_of(request: Request) -> Viewer:
    """Return who looks. Raises 401 where nobody is known, which the guard lets nowhere pass."""
    viewer = getattr(request.state, "viewer", None)
    if viewer is None:
        raise HTTPException(401, "log in first")
    return viewer


def needs(role: Role) -> Callable[[Request], Viewer]:
    """Return a dependency that passes viewers of at least this role. Others get 403, with why."""

    def check(request: Request) -> Viewer:
        viewer = viewer_of(request)
        if viewer.role < role:
            raise HTTPException(
                403, f"this needs the role {role.name}; {viewer.name} is {viewer.role.name}"
            )
        return viewer

    return check
