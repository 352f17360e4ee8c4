"""Why an address gave no image: reasons that are counted, and which of them may heal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SUCCESS, FAILED, UNUSABLE = "success", "failed_to_download", "failed_to_resize"
"""The values of `status`, as img2dataset has them."""


class Kind(NamedTuple):
    """What follows from a reason."""

    status: str
    heals: bool  # `--retry` asks again
    again: bool  # asked again at once, a few times


REASONS = {
    "timeout": Kind(FAILED, heals=True, again=True),
    "unreachable": Kind(FAILED, heals=True, again=True),
    "no such host": Kind(FAILED, heals=True, again=False),
    "busy": Kind(FAILED, heals=True, again=True),
    "server error": Kind(FAILED, heals=True, again=True),
    "certificate": Kind(FAILED, heals=True, again=False),
    "robots.txt unreachable": Kind(FAILED, heals=True, again=True),
    "truncated": Kind(FAILED, heals=True, again=True),
    "refused": Kind(FAILED, heals=False, again=False),
    "bad address": Kind(FAILED, heals=False, again=False),
    "private address": Kind(FAILED, heals=False, again=False),
    "redirects": Kind(FAILED, heals=False, again=False),
    "opted out": Kind(FAILED, heals=False, again=False),
    "robots.txt": Kind(FAILED, heals=False, again=False),
    "file too large": Kind(FAILED, heals=False, again=False),
    "bad encoding": Kind(FAILED, heals=False, again=False),
    "damaged image": Kind(UNUSABLE, heals=False, again=False),
    "not an image": Kind(UNUSABLE, heals=False, again=False),
    "too large": Kind(UNUSABLE, heals=False, again=False),
    "too small": Kind(UNUSABLE, heals=False, again=False),
    "no image name": Kind(UNUSABLE, heals=False, again=False),
    "name used twice": Kind(UNUSABLE, heals=False, again=False),
}
"""`refused` is any other answer 4xx: 404, 410, 403. A reason is a row of the how-to's table."""


@dataclass(eq=False)
class Failure(Exception):
    """No image. `wait_s` is how long the server asked everybody to stay away."""

    reason: str
    detail: str = ""
    wait_s: float = 0.0
    again: bool = True  # False: not now, whatever the reason says

    @property
    def kind(self) -> Kind:
        """What follows from the reason."""
        return REASONS[self.reason]

    @property
    def message(self) -> str:
        """Reason and detail in one line, for the table."""
        return f"{self.reason}: {self.detail}"[:300] if self.detail else self.reason
