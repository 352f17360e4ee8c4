"""Rules over samples: how many may show one image, or have one text. State of one process."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

from vila_core.data.readers.files import Filtered
from vila_core.data.rules import Rules, text_of
from vila_core.data.sample import Sample


@dataclass(frozen=True, slots=True)
class Prints:
    """What `Repeats` must know of a sample: 64 bits of the sha256 of each image, and of its text.

    The text is None when there is none. Two different images among 100 million share a print with a
    chance of 3 in 10,000.
    """

    images: tuple[int, ...]
    text: int | None


def prints(sample: Sample) -> Prints:
    """Return a sample's prints: of the images as they were read, of the text without blanks around
    words."""
    text = " ".join(text_of(sample).split())
    return Prints(
        tuple(sorted({_print(image) for image in sample.images})),
        _print(text.encode("utf-8", "surrogatepass")) if text else None,
    )


class Repeats:
    """Counts what was kept of a corpus and says what would be too much of the same.

    `check` changes nothing; `keep` counts. So a sample that something else rejects uses nothing up,
    and a restart keeps again what was kept. About 100 bytes per image and text that differ.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._images: Counter[int] = Counter()
        self._texts: Counter[int] = Counter()

    @property
    def on(self) -> bool:
        """Whether there is anything to count."""
        rules = self._rules
        return rules.max_samples_per_image is not None or rules.max_samples_per_text is not None

    def check(self, of: Prints) -> Filtered | None:
        """Return the rule that speaks against a sample after those kept; None when none does."""
        most = self._rules.max_samples_per_image
        if most is not None and any(self._images[one] >= most for one in of.images):
            return Filtered("max_samples_per_image", f"an image of {most} samples, at most {most}")
        most = self._rules.max_samples_per_text
        if most is not None and of.text is not None and self._texts[of.text] >= most:
            return Filtered("max_samples_per_text", f"a text of {most} samples, at most {most}")
        return None

    def keep(self, of: Prints) -> None:
        """Count a sample that is in the shards."""
        if self._rules.max_samples_per_image is not None:
            self._images.update(of.images)
        if self._rules.max_samples_per_text is not None and of.text is not None:
            self._texts[of.text] += 1


def _print(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
