"""Layouts of other libraries' checkpoints: found, read and written, bit for bit.

Importing this package needs no torch; its modules do.
"""

from __future__ import annotations

from typing import Literal, get_args

LayoutName = Literal["llava", "vila15", "transformers", "transformers-4.52"]
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
"""llava: flat, of LLaVA-1.5 and VILA v1.0. vila15: three folders. transformers: its LLaVA."""
