"""Readers of corpora in the formats in which they are published, by format name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vila_core.data.readers import coyo, flan, llava, mmc4
from vila_core.data.readers.common import Options
from vila_core.data.sample import Sample, SetAside


class Read(Protocol):
    """Reads the corpus at `path` (a file, or a folder of files); `images` is its image folder.

    Records come in file and record order. One that can't be used comes as SetAside. Raises
    UserError when `path`, or one of its files as a whole, can't be read.
    """

    def __call__(
        self,
        path: Path,
        *,
        corpus: str,
        images: Path | None = None,
        options: Options | None = None,
    ) -> Iterator[Sample | SetAside]:
        """Yield what the corpus holds."""
        ...


@dataclass(frozen=True)
class Reader:
    """A format: its reader, the options it has, and the template its samples usually get."""

    read: Read
    options: type[Options]
    template: str


READERS: dict[str, Reader] = {
    "mmc4": Reader(mmc4.read, mmc4.Mmc4Options, "plain"),
    "coyo": Reader(coyo.read, coyo.CoyoOptions, "plain"),
    "llava": Reader(llava.read, Options, "vicuna_v1"),
    "flan": Reader(flan.read, Options, "vicuna_v1_no_system"),
}
