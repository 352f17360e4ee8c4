"""The errors that a user may meet, and the check for optional packages."""

from __future__ import annotations

import importlib.util

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class VilaError(Exception):
    """A failure that is told in one message, without a traceback. Exit code 1."""

    exit_code = EXIT_FAILED


class UserError(VilaError):
    """The user's mistake: its message names the file, line or key, value and fix. Exit code 2."""

    exit_code = EXIT_USER


class NotInstalled(UserError):
    """An optional package is missing."""


class StoreError(VilaError):
    """The store can't be reached, read or written."""


class Unreachable(StoreError):
    """The store does not answer, or not to the end: trying again may help."""


class NotFound(StoreError):
    """No such key in the store."""


class AlreadyExists(StoreError):
    """A create-only write met an existing key."""


class Conflict(StoreError):
    """A compare-and-swap lost: somebody else changed the value first."""


class Damaged(StoreError):
    """Stored content does not match its digest."""


def require(module: str, *, extra: str, why: str) -> None:
    """Raise `NotInstalled` unless `module` can be imported, naming the extra that brings it.

    `why` completes the sentence "… is needed to", for example "train a model".
    """
    if importlib.util.find_spec(module) is None:
        raise NotInstalled(
            f"the package '{module}' is needed to {why}, but it is not installed.\n"
            f"  fix: pip install 'vila-platform[{extra}]'  (or, in a checkout, make setup)"
        )
