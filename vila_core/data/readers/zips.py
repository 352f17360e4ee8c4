"""Images inside a zip, read by name and byte range: a corpus's `images.zip` is never unpacked."""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vila_core.data.readers.records import MAX_FILE_BYTES, TOO_LARGE_FILE, Broken
from vila_core.errors import UserError

_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1
_REASON = "damaged archive"


class Entry(NamedTuple):
    """Where a file lies in a zip, and what its table of contents says about it."""

    offset: int  # of its local header
    packed: int  # bytes
    size: int  # bytes
    crc: int
    method: int  # 0 stored, 8 deflated
    refused: str = ""  # why it must not be read


class ZipImages:
    """The files of a zip by name. Small to send to a process: the contents are read there, once."""

    def __init__(self, path: Path) -> None:
        try:
            facts = path.stat()
        except OSError as error:
            raise UserError(f"{path}: can't be read: {error.strerror}") from None
        self._path, self._stamp = path, (facts.st_mtime_ns, facts.st_size)
        self._entries()  # a zip that can't be read is an error before the first record

    def __contains__(self, name: str) -> bool:
        return name in self._entries()

    def read(self, name: str) -> bytes:
        """Return a file's bytes, of its first MAX_FILE_BYTES at most. Raises Broken."""
        entry = self._entries().get(name)
        if entry is None:
            raise Broken("missing image", f"{name} in {self._path.name}")
        if entry.refused:
            raise Broken(_REASON, f"{name}: {entry.refused}")
        if max(entry.size, entry.packed) > MAX_FILE_BYTES:
            raise Broken(TOO_LARGE_FILE, f"{name}: {max(entry.size, entry.packed):,} bytes")
        data = _unpacked(self._stored(name, entry), entry)
        if data is None or len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise Broken(_REASON, f"{name}: its bytes are not the ones that were packed")
        return data

    def _entries(self) -> dict[str, Entry]:
        return entries(self._path, self._stamp)

    def _stored(self, name: str, entry: Entry) -> bytes:
        """Return the bytes of a file as they stand in the zip."""
        try:
            with self._path.open("rb") as file:
                file.seek(entry.offset)
                header = file.read(_LOCAL_HEADER.size)
                if len(header) < _LOCAL_HEADER.size or header[:4] != _MAGIC:
                    raise Broken(_REASON, f"{name}: no file stands where the table says")
                fields = _LOCAL_HEADER.unpack(header)
                file.seek(fields[-2] + fields[-1], os.SEEK_CUR)  # its name and extra fields
                return file.read(entry.packed)
        except (ValueError, OverflowError) as error:  # a place that can't be
            raise Broken(_REASON, f"{name}: {error}") from None
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Broken(_REASON, f"{name}: stands nowhere") from None
            raise UserError(f"{self._path}: can't be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def entries(path: Path, stamp: tuple[int, int]) -> dict[str, Entry]:
    """Return the files of a zip by name, kept in this process as long as `stamp` is the same.

    Raises UserError if it is no zip.
    """
    found: dict[str, Entry] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                refused = "two files of this name" if info.filename in found else _refused(info)
                found[info.filename] = Entry(
                    info.header_offset,
                    info.compress_size,
                    info.file_size,
                    info.CRC,
                    info.compress_type,
                    refused,
                )
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UserError(f"{path}: is not a readable zip: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
    return found


def _refused(info: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.flag_bits & _ENCRYPTED:
        return "needs a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {info.compress_type}; stored and deflated can be read"
    return ""


def _unpacked(data: bytes, entry: Entry) -> bytes | None:
    """Return the file, one byte more than it should have at most; None for a damaged one."""
    if entry.method == zipfile.ZIP_STORED:
        return data
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
    except zlib.error:
        return None
