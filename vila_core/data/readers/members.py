"""A record made of files that share a name: in a tar by byte range, or in a folder as they are."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vila_core.data.readers.folder import IMAGE_SUFFIXES, MISSING_IMAGE, checked, read_file
from vila_core.data.readers.lines import BROKEN_JSON, problem
from vila_core.data.readers.records import BROKEN_RECORD, MAX_FILE_BYTES, TOO_LARGE_FILE, Broken
from vila_core.data.readers.sound import BROKEN_TEXT
from vila_core.errors import UserError

MAX_TEXT_BYTES = 16 * 2**20
WHOLE = -1


class Member(NamedTuple):
    """A file of a record. `suffix` is what follows the shared name: "jpg", "000.png", "txt"."""

    suffix: str
    path: str  # of the tar, or of the file itself
    offset: int = 0
    size: int = WHOLE  # bytes

    @property
    def kind(self) -> str:
        """The last part of the suffix, in small letters."""
        return self.suffix.rpartition(".")[2].lower()

    @property
    def is_image(self) -> bool:
        """Whether the suffix is an image's."""
        return self.kind in IMAGE_SUFFIXES


@dataclass(frozen=True)
class Group:
    """The files of one record, in the order in which they lie there. Small and picklable."""

    name: str
    members: tuple[Member, ...]

    def member(self, kind: str) -> Member | None:
        """Return the first file of a kind ("txt", "json")."""
        return next((member for member in self.members if member.kind == kind), None)

    def images(self) -> list[bytes]:
        """Return the images in order. Raises Broken without any, BadImage for a bad header."""
        found = [member for member in self.members if member.is_image]
        if not found:
            have = ", ".join(member.suffix for member in self.members) or "nothing"
            raise Broken(MISSING_IMAGE, f"{self.name} has {have}")
        return [checked(self.read(member), f"{self.name}.{member.suffix}") for member in found]

    def text(self, member: Member) -> str:
        """Return a text file without the blanks around it. Raises Broken."""
        name = f"{self.name}.{member.suffix}"
        data = self.read(member)
        if len(data) > MAX_TEXT_BYTES:
            raise Broken(TOO_LARGE_FILE, f"{name}: {len(data):,} bytes")
        try:
            return data.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise Broken(BROKEN_TEXT, f"{name}: not UTF-8 text at byte {error.start}") from None

    def object(self, member: Member) -> dict[str, Any]:
        """Return a JSON file that holds an object. Raises Broken."""
        name = f"{self.name}.{member.suffix}"
        try:
            value = json.loads(self.text(member))
        except (ValueError, RecursionError) as error:
            raise Broken(BROKEN_JSON, f"{name}: {problem(error)}") from None
        if not isinstance(value, dict):
            raise Broken(
                BROKEN_RECORD, f"{name}: an object is expected, found {type(value).__name__}"
            )
        return value

    def read(self, member: Member) -> bytes:
        """Return a file's bytes. Raises Broken when it can't be read or is too large."""
        name = f"{self.name}.{member.suffix}"
        if member.size == WHOLE:
            return read_file(Path(member.path), name)
        if member.size > MAX_FILE_BYTES:
            raise Broken(TOO_LARGE_FILE, f"{name}: {member.size:,} bytes")
        return _range(member, name)


def _range(member: Member, name: str) -> bytes:
    try:
        descriptor = os.open(member.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, member.size, member.offset)
        finally:
            os.close(descriptor)
    except OSError as error:  # it was there when its headers were read
        raise UserError(f"{member.path}: can't be read: {error.strerror or error}") from None
    if len(data) < member.size:
        raise Broken("damaged archive", f"{name}: {len(data)} of {member.size} bytes are there")
    return data
