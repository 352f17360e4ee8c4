"""Options of `vila serve` that take a few words only; imports nothing heavy."""

from __future__ import annotations

from vila_core.data.templates import NAMES
from vila_core.errors import UserError

DEVICES, PRECISIONS = ("auto", "cpu", "cuda"), ("fp32", "bf16")


def check_choices(device: str, precision: str, template: str | None) -> None:
    """Raise UserError for a word that isn't known."""
    for option, value, known in (
        ("--device", device, DEVICES),
        ("--precision", precision, PRECISIONS),
        ("--template", template, NAMES),
    ):
        if value is not None and value not in known:
            raise UserError(f"{option} {value}: is not known; use {', '.join(known)}")
