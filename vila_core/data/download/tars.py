"""Tars as img2dataset leaves them: `key.jpg`, `key.json`, `key.txt`, in the order of the rows."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.data.download.corpus import CAPTION
from vila_core.errors import UserError
from vila_core.jsonio import dumps

_BLOCK = 512


@dataclass(frozen=True)
class Entry:
    """A row with an image: where a spool has it, or None if the older tar does."""

    key: str
    extension: str
    place: tuple[int, int] | None
    about: Mapping[str, Any]


def write(
    path: Path,
    entries: Sequence[Entry],
    read: Callable[[tuple[int, int]], bytes],
    old: Path | None,
) -> None:
    """Write a tar; images without a place are taken from the tar `old`, in the same order."""
    with ExitStack() as stack:
        earlier = iter(())
        if old is not None and any(one.place is None for one in entries):
            earlier = _images(stack.enter_context(tarfile.open(old, "r:")))
        file = stack.enter_context(path.open("wb"))
        for one in entries:
            if one.place is not None:
                extension, data = one.extension, read(one.place)
            else:
                found = next(((end, image) for key, end, image in earlier if key == one.key), None)
                if found is None:
                    raise UserError(f"{old}: has no image {one.key}, which its table says it has")
                extension, data = found
            file.write(_member(f"{one.key}.{extension}", data))
            file.write(_member(f"{one.key}.json", dumps(one.about).encode()))
            caption = one.about.get(CAPTION)
            if isinstance(caption, str):
                file.write(_member(f"{one.key}.txt", caption.encode()))
        file.write(bytes(2 * _BLOCK))
        file.flush()
        os.fsync(file.fileno())


def _images(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    for info in tar:
        key, _, extension = info.name.partition(".")
        if extension not in ("json", "txt"):
            content = tar.extractfile(info)
            assert content is not None
            yield key, extension, content.read()


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)  # owner, group and time are zero, mode 0644
    info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % _BLOCK)
