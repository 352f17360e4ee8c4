"""Where prepared data and models lie: in a folder, or kept by a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.errors import UserError, require
from vila_core.store import ArtifactRef, fetch, open_store
from vila_ops.cli.options import store_uri

if TYPE_CHECKING:
    from vila_core.model.processor import VilaProcessor


def find_data(name: str, store: str | None) -> Path:
    """Return a folder of prepared data: `name` itself, or what the run of that name prepared.

    Raises UserError when there is neither.
    """
    from vila_ops.runs import find_run, load_view

    folder = Path(name)
    if folder.is_dir():
        return folder / "data" if (folder / "data/corpora").is_dir() else folder
    if "/" in name:
        raise UserError(f"{name}: there is no such folder.")
    opened = open_store(store_uri(store))
    view = load_view(opened, find_run(opened, name))
    for task in view.tasks:
        for artifact in task.artifacts:
            if artifact["name"] == "data":
                ref = ArtifactRef(uri=artifact["uri"], sha256=artifact["sha256"])
                return fetch(opened, ref)
    raise UserError(f"run {view.run_id} has prepared no data yet; see: vila show {view.run_id}")


def find_processor(model: str, store: str | None) -> VilaProcessor:
    """Return the processor of a model: MODEL@ALIAS, a run, or a folder."""
    require("torch", extra="train", why="show images as a model gets them")
    from transformers.utils import logging

    from vila_core.model.processor import VilaProcessor
    from vila_ops.ask import find_model

    logging.set_verbosity_error()  # it wonders about our model type; only the tokenizer is read
    found = find_model(open_store(store_uri(store)), model)
    return VilaProcessor.from_pretrained(found.folder)
