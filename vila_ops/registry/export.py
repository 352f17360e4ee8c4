"""A version as a folder for elsewhere, laid out as the Hugging Face Hub has it, with its proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.registry import Version
from components.registry.certificates import keep_certificate
from components.registry.records import unsigned
from components.registry.signatures import Signatures
from components.registry.verify import verified_version
from vila_core.aside import aside
from vila_core.errors import require
from vila_core.jsonio import dumps
from vila_core.layouts import OURS, FolderLayout, check_layout
from vila_core.store import Store, fetch
from vila_ops.registry.card import card

_LARGE = ("*.safetensors", "*.model", "*.bin", "*.npz", "*.png")


@dataclass(frozen=True)
class Exported:
    """Where a version is now; `kept` is its certificate as the registry keeps it."""

    path: Path
    version: Version
    certificate: Mapping[str, Any]
    kept: Mapping[str, Any]


def export(
    store: Store,
    name: str,
    out: Path,
    layout: str,
    *,
    max_shard_size: str = "5GB",
    allow_unsigned: bool = False,
) -> Exported:
    """Export a version to the new folder `out` and keep the certificate with the version.

    `layout` is one of LAYOUTS. Raises UserError for another one, for a version that can't be
    believed (`verified_version`), for a model that has no place in it and when `out` exists;
    VilaError when the other library's logits differ from ours.
    """
    check_layout(layout)
    version = verified_version(store, name, allow_unsigned)
    with aside(out) as folder:
        proof = convert(fetch(store, version.artifact), folder, layout, max_shard_size)
        _describe(store, version, folder, layout)
    kept = keep_certificate(store, version, proof)
    return Exported(out, version, proof, kept)


def write_folder(store: Store, version: Version, out: Path, layout: FolderLayout) -> None:
    """Write a version to the new folder `out`, in any layout; for mirrors.

    That it is signed was for those to ask who moved the alias; a bad signature stops it here too.

    Raises what `export` raises.
    """
    verified_version(store, version.name, allow_unsigned=True)
    with aside(out) as folder:
        if layout == OURS:
            shutil.copytree(fetch(store, version.artifact), folder, copy_function=shutil.copyfile)
            (folder / "manifest.json").unlink()  # of the artifact: the record names its digest
        else:
            proof = convert(fetch(store, version.artifact), folder, layout)
            keep_certificate(store, version, proof)
        _describe(store, version, folder, layout)


def convert(ours: Path, folder: Path, layout: str, max_shard_size: str = "5GB") -> dict[str, Any]:
    """Write the model folder `ours` to the new folder `folder` in another layout; return its proof.

    Raises what `exchange.export_model` raises, NotInstalled where torch is missing.
    """
    require("torch", extra="train", why="export a model")
    require("transformers", extra="train", why="export a model")
    from transformers.utils.logging import disable_progress_bar

    from vila_core.model.layouts import exchange

    disable_progress_bar()
    return exchange.export_model(ours, folder, layout=layout, max_shard_size=max_shard_size)


def _describe(store: Store, version: Version, folder: Path, layout: str) -> None:
    """Write what tells of the version: its card, its record and signature, what is large."""
    place = f"registry/{version.model}/versions/{version.number}.json"
    record = unsigned(json.loads(store.read(place)))
    (folder / "vila-version.json").write_text(dumps(record), encoding="utf-8")
    bundles = Signatures(store, version.model).of(version)
    if bundles:
        text = dumps(bundles[0]) + "\n"
        (folder / "vila-version.sigstore.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(card(store, version, layout), encoding="utf-8")
    lines = [f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LARGE]
    (folder / ".gitattributes").write_text("".join(lines), encoding="utf-8")
