"""Where a benchmark's official files lie: a folder or a store, and images inside of either."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vila_core.errors import NotFound, UserError
from vila_core.store import Store, open_store


@dataclass(frozen=True)
class StoredImage:
    """An encoded image in a store, read when it is shown."""

    store: str
    key: str

    def __str__(self) -> str:
        return f"{self.store.rstrip('/')}/{self.key}"


@dataclass(frozen=True)
class EmbeddedImage:
    """An encoded image that an annotation file holds itself; `name` says where, in messages.

    Two are equal when their content is.
    """

    data: bytes = field(repr=False)
    name: str = field(compare=False)

    def __str__(self) -> str:
        return self.name


ImageRef = Path | StoredImage | EmbeddedImage
"""An image of a prompt, not read yet."""


def read_image(image: ImageRef) -> bytes:
    """Return the encoded bytes. Raises UserError naming an image that can't be read."""
    if isinstance(image, EmbeddedImage):
        return image.data
    try:
        if isinstance(image, StoredImage):
            return _store(image.store).read(image.key)
        return image.read_bytes()
    except NotFound:
        raise UserError(f"{image}: there is no such image; put it there or drop the item") from None
    except OSError as error:
        raise UserError(
            f"{image}: the image can't be read: {error.strerror or error}; put it there or drop "
            "the item"
        ) from None


@lru_cache(maxsize=8)
def _store(uri: str) -> Store:
    return open_store(uri)


class Files:
    """The files of one benchmark, by relative name, in a folder or a store (`s3://bucket/prefix`).

    Readers go through this alone, so that both places work and every mistake is told the same way.
    """

    def __init__(self, root: str | Path, source: str = "") -> None:
        """Open the place. `source` says where the files can be had, for messages."""
        self.root = str(root).rstrip("/") or "/"
        self._source = source
        self._in_store = "://" in self.root
        self._read: dict[str, str] = {}

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each annotation file that was read so far, by name."""
        return dict(sorted(self._read.items()))

    def where(self, name: str) -> str:
        """Return the full name of a file, for messages."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        if self._in_store:
            return _store(self.root).exists(name)
        return (Path(self.root) / name).is_file()

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names directly below `folder`; none where there is nothing."""
        if self._in_store:
            return _store(self.root).children(folder)
        try:
            return sorted(path.name for path in (Path(self.root) / folder).iterdir())
        except OSError:
            return []

    def first(self, *names: str) -> str:
        """Return the first of `names` that exists. Raises UserError naming all, when none does."""
        for name in names:
            if self.exists(name):
                return name
        wanted = " or ".join(names)
        source = f" ({self._source})" if self._source else ""
        raise UserError(
            f"{self.root}: the annotation file {wanted} is missing; put the official file "
            f"there{source}"
        )

    def read(self, name: str) -> bytes:
        """Return an annotation file's content, and note its digest. Raises UserError."""
        self.first(name)
        try:
            if self._in_store:
                data = _store(self.root).read(name)
            else:
                data = (Path(self.root) / name).read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.where(name)}: can't be read: {error.strerror or error}"
            ) from None
        self._read[name] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, name: str) -> str:
        """Return an annotation file as text, a byte-order mark left out. Raises UserError."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{self.where(name)}:{line}: is not UTF-8 text; save the file as UTF-8"
            ) from None

    def json(self, name: str, *, unique: bool = False) -> Any:
        """Return a JSON file's value. Raises UserError with the place of what is broken.

        `unique` also refuses an object with a key that stands twice: where keys are ids of
        questions, JSON readers would silently drop the first one.
        """

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            value: dict[str, Any] = {}
            for key, item in pairs:
                if key in value:
                    raise UserError(
                        f"{self.where(name)}: the id '{key}' stands twice; download the file again"
                    )
                value[key] = item
            return value

        try:
            return json.loads(self.text(name), object_pairs_hook=once if unique else None)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.where(name)}:{error.lineno}: not valid JSON: {error.msg} at column "
                f"{error.colno}; download the file again"
            ) from None
        except RecursionError:
            raise UserError(f"{self.where(name)}: not valid JSON: nested too deeply") from None

    def jsonl(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ("file:line", object) of a JSON-lines file. Raises UserError."""
        # Only "\n" ends a line: str.splitlines would also cut at U+2028 inside a text.
        for number, line in enumerate(self.text(name).split("\n"), start=1):
            if not line.strip():
                continue
            where = f"{self.where(name)}:{number}"
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(
                    f"{where}: not valid JSON: {error}; download the file again"
                ) from None
            if not isinstance(value, dict):
                raise UserError(f"{where}: a JSON object is needed, found {type(value).__name__}")
            yield where, value

    def tsv(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield ("file:row N", row) of a tab-separated file with a header. Raises UserError."""
        csv.field_size_limit(sys.maxsize)  # images stand in the cells
        rows = csv.DictReader(io.StringIO(self.text(name), newline=""), delimiter="\t")
        for number, row in enumerate(rows, start=1):
            where = f"{self.where(name)}: row {number}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where}: has another number of cells than the header; download the file again"
                )
            yield where, row

    def parquet(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ("file:row N", row) of a parquet file. Raises UserError."""
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.ParquetFile(io.BytesIO(self.read(name)))
            number = 0
            for batch in table.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{self.where(name)}: row {number}", row
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{self.where(name)}: is no readable parquet file ({error}); download it again"
            ) from None

    def image(self, name: str, where: str) -> ImageRef:
        """Return an image by relative name; `where` is the annotation that names it.

        Raises UserError for a missing one in a folder, or a name that leads outside. One in a store
        is looked for when it is shown: a request per image would take longer than the questions.
        """
        # By the name alone: a folder of images that is a link is the user's own doing.
        if ".." in Path(name).parts or name.startswith("/"):
            raise UserError(f"{where}: the image '{name}' lies outside of {self.root}")
        if self._in_store:
            return StoredImage(self.root, name)
        path = Path(self.root) / name
        try:
            there = path.is_file()
        except (OSError, ValueError):  # too long, or with a null character
            there = False
        if not there:
            raise UserError(
                f"{where}: there is no image {path}; put the official images there, or set a limit "
                "to ask only the first questions"
            )
        return path

    def first_image(self, names: list[str], where: str) -> ImageRef:
        """Return the first of several possible places of an image, as `image` does."""
        if self._in_store:
            for name in names[:-1]:
                if self.exists(name):
                    return self.image(name, where)
            return self.image(names[-1], where)
        for name in names:
            if (Path(self.root) / name).is_file():
                return self.image(name, where)
        return self.image(names[0], where)
