"""What there is to fetch: shards of rows, each an address with what the corpus says about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from vila_core.config import validate
from vila_core.data.download.settings import DownloadConfig
from vila_core.data.readers import READERS, selected
from vila_core.data.readers.coyo import CoyoOptions
from vila_core.data.readers.files import SUFFIXES, CorpusFile, corpus_files
from vila_core.data.readers.lines import Line
from vila_core.data.readers.records import Broken, Record
from vila_core.data.readers.tables import check_columns

if TYPE_CHECKING:
    import numpy as np

URL, CAPTION, NAME = "url", "caption", "image_name"
OWN = (
    "key",
    "status",
    "reason",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
)
"""Columns that the download writes itself; they win over a corpus's of the same name."""
IMAGES = "_images"


@dataclass(frozen=True)
class Row:
    """An address. `name` is the key in a tar, or the file's name; `about` goes into the table."""

    name: str
    url: object
    about: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""  # the reason not to ask for it


@dataclass(frozen=True)
class Shard:
    """Rows that are finished together. `name` is where they go, below the output folder."""

    name: str
    rows: Sequence[Row]
    broken_records: int = 0  # lines that can't be read: nobody knows how many images they had


class Corpus:
    """The shards of a corpus, in order. Raises UserError for one that can't be read."""

    def __init__(self, config: DownloadConfig) -> None:
        self._config = config
        path = Path(config.path).expanduser()
        self._files = corpus_files(path)
        self._selection: Mapping[str, np.ndarray] | None = None
        self._of_shard: Callable[[set[str]], Iterator[Shard]] = self._documents
        if config.format == "coyo":
            options = validate(CoyoOptions, config.options, where="options", path="options")
            self._caption, self._of_shard = options.text, self._pairs
            tables = [one.path for one in self._files if one.path.suffix == ".parquet"]
            check_columns(tables, [frozenset({config.url, options.text})])
            self._selection = READERS["coyo"].select(self._files, options)

    def sources(self) -> list[dict[str, Any]]:
        """Return names and sizes of the corpus's files: by these a changed one is recognised."""
        return [{"name": one.name, "bytes": one.path.stat().st_size} for one in self._files]

    def total(self) -> int | None:
        """Return how many rows there are, None if only reading all would tell."""
        counts = [self._count(file) for file in self._files]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def files(self) -> int:
        """Return how many files there are."""
        return len(self._files)

    def shards(self, finished: set[str]) -> Iterator[Shard]:
        """Yield the shards that aren't in `finished`."""
        return self._of_shard(finished)

    def _count(self, file: CorpusFile) -> int | None:
        if self._config.format == "mmc4":
            return None
        if self._selection is not None:
            return len(self._selection.get(file.shard, ()))
        if file.path.suffix != ".parquet":
            return None
        import pyarrow.parquet as pq

        return pq.read_metadata(file.path).num_rows

    def _pairs(self, finished: set[str]) -> Iterator[Shard]:
        size, first = self._config.shard_rows, 0
        for file in self._files:
            count = self._count(file)
            if count is not None:
                last = first + math.ceil(count / size)
                if all(f"{number:05d}" in finished for number in range(first, last)):
                    first = last
                    continue  # not even opened: the whole of COYO takes hours to read
            number, batch = first, []
            for record in selected(file, self._selection):
                batch.append(record)
                if len(batch) == size:
                    yield from self._shard(number, batch, finished)
                    number, batch = number + 1, []
            if batch:
                yield from self._shard(number, batch, finished)
                number += 1
            first = number

    def _shard(self, number: int, records: list[Record], finished: set[str]) -> Iterator[Shard]:
        name = f"{number:05d}"
        if name not in finished:
            digits = len(str(self._config.shard_rows - 1))
            rows = [
                self._pair(f"{name}{place:0{digits}d}", record)
                for place, record in enumerate(records)
            ]
            yield Shard(name, rows)

    def _pair(self, key: str, record: Record) -> Row:
        value = _value(record)
        if not isinstance(value, dict):
            return Row(key, None)
        about = {str(name): _plain(one) for name, one in value.items() if name not in OWN}
        about.pop(self._config.url, None)
        caption = about.pop(self._caption, None)
        caption = caption if isinstance(caption, str) and caption.strip() else None
        return Row(key, value.get(self._config.url), {**about, CAPTION: caption})

    def _documents(self, finished: set[str]) -> Iterator[Shard]:
        for file in self._files:
            end = next(end for end in SUFFIXES if file.name.endswith(end))
            name = file.name.removesuffix(end) + IMAGES
            if name not in finished:
                yield self._images(name, file)

    def _images(self, name: str, file: CorpusFile) -> Shard:
        rows: list[Row] = []
        seen: set[str] = set()
        broken = 0
        for record in file.records():
            value = _value(record)
            infos = value.get("image_info") if isinstance(value, dict) else None
            if not isinstance(infos, list):
                broken += 1
                continue
            for info in infos:
                info = info if isinstance(info, dict) else {}
                image, url = info.get("image_name"), info.get("raw_url")
                about = {"document": record.where}
                if not _is_name(image):
                    rows.append(Row(str(_plain(image) or ""), url, about, "no image name"))
                    continue
                rows.append(Row(image, url, about, "name used twice" if image in seen else ""))
                seen.add(image)
        return Shard(name, rows, broken)


def _value(record: Record) -> Any:
    if record.broken:
        return None
    try:
        return record.value.parsed() if isinstance(record.value, Line) else record.value
    except Broken:
        return None


def _is_name(image: object) -> TypeGuard[str]:
    """Return whether an image name of a corpus is that of a plain file in a folder."""
    return (
        isinstance(image, str)
        and 0 < len(image.encode("utf-8", "replace")) <= 200
        and image.isprintable()
        and "/" not in image
        and not image.startswith(".")
    )


def _plain(value: Any) -> Any:
    """Return a value that JSON and a table can hold; None for others."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None
