"""Named presets of rules, in configs/rules: what a paper or a released script says, as values.

A preset has a section per format, with values for the format's own options (`options`) and for the
rules of any format (`rules`). The file says where each value comes from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vila_core.config import Frozen, read_yaml
from vila_core.data.readers import reader_of
from vila_core.data.readers.common import Options
from vila_core.data.rules import Rules

_ABOUT = "about"
ModelT = TypeVar("ModelT", bound=Frozen)


@dataclass(frozen=True)
class Preset:
    """A preset: one line about it, and its values by format, then by `options` and `rules`."""

    name: str
    about: str
    formats: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def part(self, format: str, name: str) -> Mapping[str, Any]:
        """Return the values for `options` or `rules` of a format."""
        return self.formats[format].get(name, {})


@lru_cache(maxsize=1)
def presets() -> dict[str, Preset]:
    """Return the presets by name."""
    folder = Path(str(files("configs") / "rules"))
    result: dict[str, Preset] = {}
    for path in sorted(folder.glob("*.yaml")):
        values = read_yaml(path)
        about = str(values.pop(_ABOUT))
        result[path.stem] = Preset(path.stem, about, values)
    return result


def resolve(
    format: str, options: Mapping[str, Any], rules: Mapping[str, Any]
) -> tuple[Options, Rules]:
    """Return a corpus's options and rules, complete: those given win over those of the preset.

    `rules["preset"]` names it. In a mapping (`max_score: {…}`) each entry wins for itself, and null
    takes a preset's entry or value away. Raises ValueError that names the key, for the validators
    of configs: an unknown preset, or one without a section for `format`; unknown keys; bad values.
    Raises UserError for an unknown format.
    """
    own, rules = dict(options), dict(rules)
    name = rules.get("preset")
    if name is not None:
        preset = _preset(name, format)
        own = _merged(preset.part(format, "options"), own)
        rules = _merged(preset.part(format, "rules"), rules)
    return (
        _model(reader_of(format).options, own, "options", f"format '{format}'"),
        _model(Rules, rules, "rules", "every corpus"),
    )


def _preset(name: Any, format: str) -> Preset:
    known = presets()
    if name not in known:
        raise ValueError(f"rules.preset: '{name}' is not one of {', '.join(known)}")
    preset = known[name]
    if format not in preset.formats:
        fitting = [one.name for one in known.values() if format in one.formats]
        have = f"has {', '.join(fitting)}" if fitting else "has none"
        raise ValueError(
            f"rules.preset: '{name}' is for {', '.join(preset.formats)}; format '{format}' {have}"
        )
    return preset


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `own` over `base`, mappings by entry."""
    result = dict(base)
    for key, value in own.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            both = {**old, **value}
            result[key] = {name: one for name, one in both.items() if one is not None}
        elif value is None and isinstance(old, Mapping):
            del result[key]
        else:
            result[key] = value
    return result


def _model(cls: type[ModelT], values: Mapping[str, Any], name: str, owner: str) -> ModelT:
    known = list(cls.model_fields)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            have = f"has {', '.join(known)}" if known else "has none"
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ValueError(f"{name}.{key} is not an option: {hint}{owner} {have}")
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        problems = (
            f"{'.'.join([name, *map(str, one['loc'])])}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise ValueError("; ".join(problems)) from None
