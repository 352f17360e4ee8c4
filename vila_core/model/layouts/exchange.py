"""Import and export a model, each whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from vila_core.aside import aside
from vila_core.errors import UserError
from vila_core.layouts import LAYOUTS, LayoutName, check_layout
from vila_core.model.layouts import certificate, flat, hf, vila15
from vila_core.model.layouts.contents import Contents, read_ours, write_ours
from vila_core.model.layouts.files import DEFAULT_SHARD, parse_size

WRITERS: dict[str, Callable[[Contents, Path, int], None]] = {
    "llava": flat.write,
    "vila15": vila15.write,
    "transformers": hf.write,
    "transformers-4.52": hf.write_452,
}
READERS: dict[str, Any] = {
    "llava": flat.read,
    "vila15": vila15.read,
    "transformers": hf.read,
    "transformers-4.52": hf.read,
}


def detect(folder: Path) -> LayoutName:
    """Return the folder's layout. Raises UserError when it has none that we know."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found: list[LayoutName] = []
    if vila15.detect(folder):
        found.append("vila15")
    elif hf.detect(folder):
        found.append("transformers")
    elif flat.detect(folder):
        found.append("llava")
    if not found:
        raise UserError(
            f"{folder}: has no layout that is known here.\n"
            f"  fix: the folder of a model with layout {', '.join(LAYOUTS)}"
        )
    return found[0]


def import_model(
    source: Path,
    out: Path,
    *,
    layout: str = "auto",
    vision_tower: Path | None = None,
    convert_pickles: bool = False,
    max_shard_size: str = DEFAULT_SHARD,
) -> Contents:
    """Write the model in `source` to the new folder `out`, for `vila_core.model.load`.

    Raises UserError for another layout, incomplete weights, pickles (unless `convert_pickles`), and
    when `out` exists.
    """
    if not source.is_dir():
        raise UserError(f"{source}: there is no such folder")
    chosen = detect(source) if layout == "auto" else _known(layout)
    size = parse_size(max_shard_size)
    with aside(out) as partial:
        partial.mkdir()
        contents = READERS[chosen](
            source, vision_tower=vision_tower, convert_pickles=convert_pickles
        )
        write_ours(contents, partial, size)
    return contents


def export_model(
    model: Path, out: Path, *, layout: str, max_shard_size: str = DEFAULT_SHARD
) -> dict[str, Any]:
    """Write a model folder of ours to the new folder `out` in another layout; return its proof.

    The other library loads what was written and must give our logits (see `certificate`). Raises
    UserError for parts that the layout has no place for and when `out` exists, VilaError when the
    logits differ; then nothing is left.
    """
    chosen, size = _known(layout), parse_size(max_shard_size)
    with aside(out) as partial:
        partial.mkdir()
        WRITERS[chosen](read_ours(model), partial, size)
        return certificate.certify(model, partial, chosen)


def _known(layout: str) -> LayoutName:
    check_layout(layout)
    return cast("LayoutName", layout)
