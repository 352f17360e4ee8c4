"""Raw records, and the two ways in which one becomes no sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

MAX_RECORD_BYTES = 256 * 2**20
"""A longer line, JSON item or text file is set aside, so that memory stays bounded."""
MAX_FILE_BYTES = 128 * 2**20
"""A larger image file, or file in an archive, is set aside."""
BROKEN_RECORD, TOO_LARGE_FILE = "broken record", "file too large"


class Broken(Exception):
    """A record that can't become a sample; `reason` is counted, `detail` is shown."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[Broken], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class Filtered(Exception):
    """A sound record that a rule leaves out; `reason` is the rule, `detail` the value it met."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[Filtered], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True)
class Record:
    """One record of a file, or why it can't be read. `number` counts from 0 in its file."""

    number: int
    where: str  # "docs.jsonl:18", "part-00000.parquet row 17", "chat.json item 17"
    value: Any
    broken: Broken | None = None


class RecordFile(Protocol):
    """A file of a corpus, or what stands for one. `shard` is its part of the sample keys."""

    @property
    def shard(self) -> str:
        """The middle part of the sample keys."""
        ...

    def records(self) -> Iterator[Record]:
        """Yield the records; their values are small, or say where the rest lies."""
        ...
