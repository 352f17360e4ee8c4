"""Evaluation sets on disk as what training data must not contain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vila_core.data.dedupe import EvalItem
from vila_core.errors import UserError
from vila_core.eval.items import Item, eval_folders, load_eval_set


def eval_items(root: Path) -> dict[str, Iterator[EvalItem]]:
    """Return the items of every evaluation set below `root`, by the name of its task.

    Demonstrations are left out: what they show is not asked. Each set is read when it is iterated;
    that raises UserError as `load_eval_set` does, or for an image that can't be read.
    """
    return {name: _items(folder) for name, folder in eval_folders(root).items()}


def _items(folder: Path) -> Iterator[EvalItem]:
    shown: set[Path] = set()
    for item in load_eval_set(folder).items:
        texts = " ".join(part for part in item.case.parts if isinstance(part, str))
        # Many questions about one image are common: the first of them stands for the image.
        new = {part: None for part in item.case.parts if isinstance(part, Path)}
        fresh = [path for path in new if path not in shown]
        shown.update(fresh)
        images = tuple(_read(path, item) for path in fresh)
        yield EvalItem(item.key, (texts, item.case.answer), images)


def _read(path: Path, item: Item) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{item.where}: the image {path} can't be read: {error.strerror or error}"
        ) from None
