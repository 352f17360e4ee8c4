"""What layouts of a model's folder are called; `vila_core.model.layouts` reads and writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from vila_core.errors import UserError

LayoutName = Literal["llava", "vila15", "transformers", "transformers-4.52"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
"""llava: flat, of LLaVA-1.5 and VILA v1.0. vila15: three folders. transformers: its LLaVA."""
OURS = "ours"
"""The layout that `vila ask` and trainings read."""
FolderLayout = Literal["ours", LayoutName]
"""The layout of a folder that holds a version: ours or another."""


def check_layout(layout: str, known: Sequence[str] = LAYOUTS) -> None:
    """Raise UserError for a layout that is not one of those `known`."""
    if layout not in known:
        raise UserError(f"layout '{layout}' is not one of {', '.join(known)}")
