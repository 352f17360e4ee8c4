"""Files that come with the package and are meant by name, or any file by its path."""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path

from vila_core.errors import UserError


def config_files(folder: str) -> dict[str, Path]:
    """Return the YAML files of a folder in `configs`, by name."""
    found = Path(str(importlib.resources.files("configs"))) / folder
    return {path.stem: path for path in sorted(found.glob("*.yaml"))}


def find_file(name: str, known: Mapping[str, Path], what: str) -> Path:
    """Return the file that is meant by a known name, or by a path.

    Raises UserError with the nearest name; `what` is what it is a file of, such as "recipe".
    """
    if is_path(name):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"{name}: there is no such file of a {what}.")
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}."
    raise UserError(f"there is no {what} '{name}'; {hint} (a path ending in .yaml works too)")


def is_path(name: str) -> bool:
    """Return whether a text is a path, not a name."""
    return name.endswith((".yaml", ".yml")) or "/" in name
