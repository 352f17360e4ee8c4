"""`vila eval`: which benchmarks with which files, of which model, as one task per benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.assembled import Node
from vila_core.config import Frozen, apply_overrides, merge, validate
from vila_core.errors import UserError
from vila_core.eval.benchmark import NAMES, TEXT_ONLY, benchmark
from vila_core.store import ArtifactRef, Store, open_store
from vila_ops.ask import refer
from vila_ops.recipes import stage_config

STAGE = {True: "text_benchmark", False: "benchmark"}
"""The stage by whether a benchmark is text only."""


@dataclass(frozen=True)
class Asked:
    """One benchmark of an evaluation: its name, stage and checked config."""

    name: str
    stage: str
    config: Frozen

    @property
    def task(self) -> str:
        """The name of its task."""
        return f"eval-{self.name.replace('_', '-')}"


def subject(store: Store, model: str) -> dict[str, Any]:
    """Return what a benchmark's config says of the model: a folder, an artifact or an endpoint.

    `model` is NAME@ALIAS or NAME@VERSION of the registry, a run, a folder, or `URL#NAME` of an
    OpenAI-compatible endpoint. Raises UserError when there is none.
    """
    if model.startswith(("http://", "https://")):
        return {"endpoint": endpoint(model)}
    found = refer(store, model)
    place = found.place
    where = f"artifact+{place.uri}" if isinstance(place, ArtifactRef) else str(place.resolve())
    return {"model": where} | ({"template": found.template} if found.template else {})


def endpoint(text: str) -> dict[str, str]:
    """Return what a config says of an endpoint written as `URL#NAME`. Raises UserError."""
    url, _, name = text.partition("#")
    if not name:
        raise UserError(
            f"{text}: which model of the endpoint? fix: write it behind a #, for example "
            f"{url}#llava-1.5-7b"
        )
    return {"url": url, "model": name}


def nodes(asked: Sequence[Asked]) -> list[Node]:
    """Return the graph of an evaluation: its tasks do not depend on each other."""
    return [Node(each.task, each.stage) for each in asked]


def plan_evaluation(
    model: Mapping[str, Any],
    data: str,
    names: Sequence[str],
    settings: Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> list[Asked]:
    """Return the benchmarks to run: those of `names`, or all whose files are below `data`.

    The files of a benchmark are in the folder of its name below `data`, or in `data` itself where
    only one is asked for. `settings` are for all; of overrides, `pope.limit=10` is for one and
    `limit=10` for all. Raises UserError for an unknown name, files that are not there, and a wrong
    setting.
    """
    there = [name for name in _folders(data) if name in NAMES]
    for name in names:
        if name not in TEXT_ONLY:
            benchmark(name)
    if not names and not there:
        raise UserError(
            f"{data}: holds no folder named like a benchmark ({', '.join(NAMES[:4])}, …); put the "
            "official files of each into a folder of its name, or name one: --benchmarks pope"
        )
    values = apply_overrides({}, overrides)
    own = {key: value for key, value in values.items() if key in NAMES}
    common = {key: value for key, value in values.items() if key not in NAMES}
    asked = []
    for name in dict.fromkeys(names or there):
        text = name in TEXT_ONLY
        named = {"benchmark": name, "data": _data_of(data, name, there, alone=len(names) == 1)}
        config: dict[str, Any] = {}
        for part in (_known(settings, stage_config(STAGE[text])), model, common, own.get(name, {})):
            config = merge(config, part)
        config |= named
        checked = validate(stage_config(STAGE[text]), config, where=f"vila eval: {name}")
        asked.append(Asked(name, STAGE[text], checked))
    return asked


def _known(settings: Mapping[str, Any], config: type[Frozen]) -> dict[str, Any]:
    """Leave out what is not set, and what a stage has no setting for, such as images of text."""
    return {
        key: value
        for key, value in settings.items()
        if key in config.model_fields and value is not None
    }


def _data_of(data: str, name: str, there: Sequence[str], *, alone: bool) -> str:
    place = data if "://" in data else str(Path(data).expanduser().resolve())
    if name in there:
        return f"{place.rstrip('/')}/{name}"
    if alone:
        return place
    raise UserError(
        f"{data}: has no folder '{name}' with the official files of that benchmark; there are: "
        f"{', '.join(there) or 'none'}"
    )


def _folders(data: str) -> list[str]:
    if "://" in data:
        return open_store(data).children("")
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise UserError(f"{data}: there is no such folder; fix: --data DIR with the official files")
    return sorted(path.name for path in folder.iterdir() if path.is_dir())
