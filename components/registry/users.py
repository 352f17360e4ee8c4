"""Who this process acts for, as the history of the registry names them."""

from __future__ import annotations

import getpass


def user_name() -> str:
    """Return the name of the user; "unknown" of a container's user without one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
