"""Count prepared corpora again, with another tokenizer or another template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vila_core.data.templates import NAMES
from vila_core.errors import UserError
from vila_core.store import is_in_artifact
from vila_ops.data.telling import progress


def count(
    folder: Path,
    tokenizer: Path,
    template: str | None,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> Iterator[dict[str, Any]]:
    """Write counts beside the index of each corpus in `folder`, or of the one that it is.

    Yields, after each, what came of it: `corpus`, `template`, and either the fields of `Recount` or
    none, where its index holds these counts. Raises UserError for a folder that holds no corpus or
    belongs to a run, and what `count_again` raises.
    """
    from vila_core.data.counting import CountWork, count_again
    from vila_core.data.pool import cpus

    if template is not None and template not in NAMES:
        raise UserError(f"--template {template}: known templates are {', '.join(NAMES)}.")
    corpora = _corpora(folder)
    if is_in_artifact(folder):
        raise UserError(
            f"{folder}: belongs to a run's artifact, which is never changed.\n"
            f"  fix: cp -r {folder} COPY, count that, and name it in `data` of the training task; "
            "or set prepare.tokenizer and prepare anew."
        )
    for corpus in corpora:
        used = template or json.loads((corpus / "manifest.json").read_bytes())["template"]
        with progress(corpus.name, "samples", quiet=quiet) as told:
            made = count_again(
                CountWork(corpus, tokenizer.expanduser(), used),
                workers=workers or cpus(),
                told=told,
            )
        facts = {} if made is None else {**asdict(made), "path": str(made.path)}
        yield {"corpus": corpus.name, "template": used, **facts}


def line(found: dict[str, Any]) -> str:
    """Return one line that tells what came of a corpus."""
    name = f"{found['corpus']} ({found['template']})"
    if "path" not in found:
        return f"{name}: its index holds these counts already"
    text = (
        f"{name}: {found['samples']:,} samples, {found['text_tokens']:,} text tokens, "
        f"{found['supervised']:,} supervised: {found['path']}"
    )
    if found["unsupervised"]:
        text += f"; no token of {found['unsupervised']:,} samples carries loss"
    return text


def _corpora(folder: Path) -> list[Path]:
    for place in (folder, folder / "corpora", folder / "data/corpora"):
        if (place / "manifest.json").is_file() and (place / "index.npz").is_file():
            return [place]
        found = sorted(path.parent for path in place.glob("*/manifest.json"))
        if found:
            return found
    raise UserError(
        f"{folder}: holds no prepared corpus.\n"
        "  fix: name a folder that `vila data prepare` wrote, or a corpus in it."
    )
