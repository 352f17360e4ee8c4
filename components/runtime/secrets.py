"""Keeps secrets out of logs and records."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_ENVIRONMENT = re.compile(r"(^|_)(API)?(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.I)
# Narrower than for the environment: `image_token` in a config is no secret.
_KEY = re.compile(
    r"((api|access|account|auth|bearer|hf|private|secret|wandb)[_-]?(key|token))"
    r"|password|passwd|secret|credential",
    re.I,
)
_SHORTEST = 6  # a shorter value would blank ordinary text


def secret_values() -> tuple[str, ...]:
    """Return the values of environment variables that look like secrets, longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if _ENVIRONMENT.search(name) and len(value) >= _SHORTEST
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def mask_text(text: str, values: tuple[str, ...] | None = None) -> str:
    """Return `text` with every secret value replaced."""
    for value in secret_values() if values is None else values:
        text = text.replace(value, MASK)
    return text


def mask(value: Any, values: tuple[str, ...] | None = None) -> Any:
    """Return a JSON-able value with secrets replaced, by their value and by their key."""
    values = secret_values() if values is None else values
    if isinstance(value, Mapping):
        return {
            key: MASK
            if isinstance(item, str) and item and _KEY.search(str(key))
            else mask(item, values)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask(item, values) for item in value]
    return mask_text(value, values) if isinstance(value, str) else value
