"""Evaluation sets on disk as what training data must not contain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vila_core.data.dedupe import EvalItem
from vila_core.eval.files import ImageRef, read_image
from vila_core.eval.items import eval_folders, load_eval_set


@dataclass(frozen=True)
class EvalFolder:
    """The items of one evaluation set, read anew whenever they are gone through.

    That raises UserError as `load_eval_set` does, or for an image that can't be read.
    """

    folder: Path

    def __iter__(self) -> Iterator[EvalItem]:
        return _items(self.folder)


def eval_items(root: Path) -> dict[str, EvalFolder]:
    """Return every evaluation set below `root`, by the name of its task.

    Demonstrations are left out: what they show is not asked.
    """
    return {name: EvalFolder(folder) for name, folder in eval_folders(root).items()}


def _items(folder: Path) -> Iterator[EvalItem]:
    shown: set[ImageRef] = set()
    for item in load_eval_set(folder).items:
        texts = " ".join(part for part in item.case.parts if isinstance(part, str))
        # Many questions about one image are common: the first of them stands for the image.
        new = {part: None for part in item.case.parts if not isinstance(part, str)}
        fresh = [path for path in new if path not in shown]
        shown.update(fresh)
        images = tuple(read_image(image) for image in fresh)
        yield EvalItem(item.key, (texts, item.case.answer), images)
