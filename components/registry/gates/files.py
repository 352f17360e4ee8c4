"""Gates by name (`configs/gates/NAME.yaml`) or from a file of the user's."""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.registry.gates.conditions import Gate
from vila_core.config import Frozen, read_yaml, validate
from vila_core.errors import UserError
from vila_core.jsonio import digest


class GateFile(Frozen):
    """A file of gates."""

    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class NamedGates:
    """Gates, what they go by, and the digest of what they ask."""

    name: str
    gates: tuple[Gate, ...]

    @property
    def digest(self) -> str:
        """The sha256 of what they ask, whatever the file's name and comments."""
        return digest([gate.model_dump(mode="json") for gate in self.gates])


def names() -> list[str]:
    """Return the names of the files in `configs/gates`."""
    folder = importlib.resources.files("configs") / "gates"
    files = [item.name for item in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def raw_gates(name: str) -> list[Mapping[str, Any]]:
    """Return what a file in `configs/gates` holds. Raises ValueError for an unknown name."""
    known = names()
    if name not in known:
        raise ValueError(f"there is no configs/gates/{name}.yaml; {_fix(name, known)}")
    path = importlib.resources.files("configs") / "gates" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["gates"]


def load_gates(text: str) -> NamedGates:
    """Return the gates of a name in `configs/gates`, or of a file.

    Raises UserError that names file, key and value.
    """
    if text in names():
        values = {"gates": raw_gates(text)}
        return NamedGates(
            text, validate(GateFile, values, where=f"configs/gates/{text}.yaml").gates
        )
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"--gates {text}: is no file, and no name of gates; {_fix(text, names())}")
    return NamedGates(path.name, validate(GateFile, read_yaml(path), where=str(path)).gates)


def _fix(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
