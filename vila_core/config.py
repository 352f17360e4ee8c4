"""Configs: frozen pydantic models, YAML as data, `a.b=c` overrides, and errors that help."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vila_core.errors import UserError
from vila_core.jsonio import digest


class Frozen(BaseModel):
    """Base of every config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    not_in_key: ClassVar[tuple[str, ...]] = ()
    """Fields that say how fast the same result comes. They stay out of a task's cache key."""

    def digest(self) -> str:
        """Return the sha256 of the resolved config's canonical JSON."""
        return digest(self.model_dump(mode="json"))

    def cache_key(self) -> dict[str, Any]:
        """Return the resolved config without what can't change the result: `not_in_key`."""
        values = self.model_dump(mode="json", exclude=set(self.not_in_key))
        parts = {name: getattr(self, name) for name in values}
        return values | {
            n: part.cache_key() for n, part in parts.items() if isinstance(part, Frozen)
        }

    def outside(self) -> Sequence[Path | str]:
        """Return what a stage with this config reads beside its inputs.

        A path is a file or folder, a text the URI of prepared corpora in some store. Their state is
        part of the task's key: a cached result must not outlive them unseen.
        """
        return []

    def streamed(self, uris: Mapping[str, str]) -> tuple[Frozen, frozenset[str]]:
        """Return the config that reads inputs where they are, and those not to be fetched then.

        `uris` are the artifacts of the inputs where the store is remote; empty on this machine.
        """
        return self, frozenset()


ConfigT = TypeVar("ConfigT", bound=Frozen)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping. Raises UserError for a missing, broken or non-mapping file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}).") from None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"{path}{place}: not valid YAML: {problem}.") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{path}: a mapping (key: value) is needed at the top, found {kind}.")
    return value


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `a.b=c` applied; `c` is read as YAML.

    Raises UserError for text without '=' or a path that goes through a plain value.
    """
    result = _copy(values)
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path.strip():
            raise UserError(
                f"--set {override}: expected KEY=VALUE, for example sft.train.lr=0.001."
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {override}: the value '{text}' is not valid YAML.") from None
        if isinstance(value, str) and _is_number(value):
            value = float(value)  # YAML 1.1 reads 1e-3 as text; nobody means that
        node = result
        *parents, leaf = path.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(
                    f"--set {override}: '{parent}' is a plain value, it has no keys below."
                )
        node[leaf] = value
    return result


def merge(
    values: Mapping[str, Any], more: Mapping[str, Any], *, whole: Collection[str] = ()
) -> dict[str, Any]:
    """Return `values` overridden by `more`, key by key; what `whole` names is replaced as one."""
    result = dict(values)
    for key, value in more.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and key not in whole:
            value = merge(old, value, whole=whole)
        result[key] = value
    return result


def validate(
    cls: type[ConfigT], values: Mapping[str, Any], *, where: str, path: str = ""
) -> ConfigT:
    """Build a config, turning every problem into one UserError.

    `where` names the source (a file, or "--set"); `path` is the YAML path of `values` in it.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(cls, problem, path) for problem in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(cls: type[Frozen], problem: Mapping[str, Any], path: str) -> str:
    location = [str(part) for part in problem["loc"]]
    full = ".".join([*([path] if path else []), *location])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(cls, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}."
        return f"{full}: unknown key; {fix}"
    if problem["type"] == "missing":
        return f"{full}: is required and not set."
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    return f"{full}: {value!r} is not valid: {message[:1].lower()}{message[1:]}."


def _fields_at(cls: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the field names of the model found by following `location` from `cls`."""
    for part in location:
        info = cls.model_fields.get(part)
        if info is None:
            continue  # a list index or dictionary key: the model below it was found already
        models = [kind for kind in _types(info.annotation) if issubclass(kind, BaseModel)]
        if models:
            cls = models[0]
    return list(cls.model_fields)


def _types(annotation: Any) -> list[type]:
    """Flatten unions and containers to the classes inside."""
    inner = get_args(annotation)
    if inner:
        return [kind for part in inner for kind in _types(part)]
    return [annotation] if isinstance(annotation, type) else []


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
