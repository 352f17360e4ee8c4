"""Model folders of other libraries: imported bit by bit into the work folder, while they are asked.

Imports nothing heavy at the top.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from vila_core.errors import UserError, require
from vila_core.stages._answerers import fetch_model, model_type
from vila_core.types import Reporter


@contextmanager
def model_folder(
    model: str | None, inputs: Mapping[str, Path], work: Path, report: Reporter
) -> Iterator[Path]:
    """Give the folder of the model that a config or a task's input names, for `open_folder`.

    A flat LLaVA or VILA v1.0 folder and the three folders of VILA-1.5 are imported below `work`,
    without changing a bit of their weights; what was written goes at the end. Nothing is written
    beside the user's files. Raises UserError for no model, and for one that can't be imported:
    weights in pickles, or without a vision tower.
    """
    if model is None and "model" not in inputs:
        raise UserError("model: neither a model nor an endpoint is set; set one of them")
    folder = inputs["model"] if model is None else fetch_model(model)
    if not _of_another_library(folder):
        yield folder
        return
    imported = work / "imported"
    shutil.rmtree(imported, ignore_errors=True)  # of an attempt that was killed
    try:
        _import(folder, imported / "model", report)
        yield imported / "model"
    finally:
        shutil.rmtree(imported, ignore_errors=True)


def _of_another_library(folder: Path) -> bool:
    try:
        if model_type(folder) == "vila":
            return False
    except UserError:
        return False  # whoever opens it says so
    for module in ("torch", "transformers"):
        require(module, extra="train", why="evaluate a model")
    from vila_core.model.layouts import flat, vila15

    return vila15.detect(folder) or flat.detect(folder)


def _import(folder: Path, out: Path, report: Reporter) -> None:
    from vila_core.model.layouts.exchange import import_model

    try:
        contents = import_model(folder, out)
    except UserError as error:
        what, _, fix = str(error).partition("\n  fix: ")
        for option, written in (
            ("--convert-pickles", "--convert-pickles"),
            ("--vision-tower", "--vision-tower TOWER"),
        ):
            if fix.startswith(option):
                raise UserError(
                    f"{what}\n  fix: vila import {folder} --to NEW {written}, and evaluate NEW"
                ) from None
        raise
    layout = contents.origin.layout if contents.origin else "another"
    report.info(f"{folder}: layout {layout}, imported for this evaluation; no bit is changed")
