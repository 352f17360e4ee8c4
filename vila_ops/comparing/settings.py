"""What sets runs apart: settings, code, data and environment, only what differs by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.runtime.secrets import mask
from vila_core.jsonio import dumps
from vila_ops.compare import flatten
from vila_ops.comparing.chosen import Chosen

CODE, DATA, ENVIRONMENT = "code", "data", "environment"
_MISSING = object()


@dataclass(frozen=True)
class Setting:
    """One setting: its text by run, None where a run has none, and whether all runs agree."""

    key: str
    values: tuple[str | None, ...]
    same: bool


@dataclass(frozen=True)
class Section:
    """Settings of one task, or: code, data, environment."""

    name: str
    settings: tuple[Setting, ...]

    @property
    def different(self) -> tuple[Setting, ...]:
        """Those that differ."""
        return tuple(one for one in self.settings if not one.same)


def settings_of(runs: Sequence[Chosen]) -> list[Section]:
    """Return all settings by section; secrets are masked."""
    code = [{"code": one.view.code_digest[:12], "recipe": one.view.recipe} for one in runs]
    data = [
        {task: sha256[:12] for task, sha256 in one.view.data_versions.items()}
        | {name: str(version.get("rev", version)) for name, version in one.view.dvc.items()}
        for one in runs
    ]
    around = [
        {"runner": one.view.runner, **flatten({k: v for k, v in one.about.items() if v})}
        for one in runs
    ]
    sections = [
        Section(CODE, _settings(code)),
        Section(DATA, _settings(data)),
        Section(ENVIRONMENT, _settings(around)),
    ]
    configs = [mask(one.view.config) for one in runs]
    for name in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(name, _MISSING) for config in configs]
        parts = [
            flatten(value)
            if isinstance(value, Mapping) and value
            else ({} if value is _MISSING else {"": value})
            for value in values
        ]
        sections.append(Section(name, _settings(parts)))
    return sections


def _settings(parts: Sequence[Mapping[str, Any]]) -> tuple[Setting, ...]:
    found = []
    for key in sorted(dict.fromkeys(key for part in parts for key in part)):
        values = [part.get(key, _MISSING) for part in parts]
        found.append(
            Setting(key, tuple(map(_text, values)), all(value == values[0] for value in values))
        )
    return tuple(found)


def _text(value: object) -> str | None:
    if value is _MISSING:
        return None
    if isinstance(value, str):
        return value
    try:
        return dumps(value)
    except (TypeError, ValueError):  # NaN and the like, which JSON has no word for
        return str(value)
