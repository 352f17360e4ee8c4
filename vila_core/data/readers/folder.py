"""Images by their names in a corpus: in a folder, or in a zip that is never unpacked."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from vila_core.data.readers.records import BROKEN_RECORD, MAX_FILE_BYTES, TOO_LARGE_FILE, Broken
from vila_core.data.readers.zips import ZipImages
from vila_core.errors import UserError
from vila_core.images import BadImage, check_header

MISSING_IMAGE = "missing image"
_OF_THE_NAME = (
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.ENXIO,
)
"""Errors for which a name is to blame, or a file's owner; others are the disk's."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


def image_folder(path: Path, images: Path | None) -> Path:
    """Return where a corpus's images lie: `images`, or the folder of that name beside the file."""
    return images or (path if path.is_dir() else path.parent) / "images"


class ImageFolder:
    """Images by their names in a corpus, in a folder or in a zip.

    A missing folder `images` gives way to an `images.zip` beside it, which is never unpacked.
    Names that lead out of the folder are refused.
    """

    def __init__(self, folder: Path) -> None:
        packed = folder if folder.suffix == ".zip" else folder.with_name(f"{folder.name}.zip")
        in_zip = packed.is_file() and not folder.is_dir()
        self._folder, self._zip = folder, ZipImages(packed) if in_zip else None

    def read(self, name: str) -> bytes:
        """Return an image file. Raises Broken when it is missing, BadImage for a bad header."""
        self._check(name)
        data = self._zip.read(name) if self._zip else read_file(self._folder / name, name)
        return checked(data, name)

    def find(self, stem: str, extensions: Iterable[str]) -> str | None:
        """Return the name of the image `stem` with the first of the extensions that it has."""
        self._check(stem)
        for name in (f"{stem}.{extension}" for extension in extensions):
            if name in self._zip if self._zip else _is_file(self._folder / name):
                return name
        return None

    def _check(self, name: str) -> None:
        if unsafe(name):
            detail = f"image name {name!r} leads out of the image folder"
            raise Broken(BROKEN_RECORD, detail)


def unsafe(name: str) -> bool:
    """Return whether a file name from a corpus leads out of its folder, or is no file name."""
    return not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts


def read_file(path: Path, name: str) -> bytes:
    """Return a file of a corpus. Raises Broken, naming `name`, unless there is one of that name.

    Raises UserError for a disk that fails: that is no defect of one record.
    """
    try:
        # Without O_NONBLOCK a named pipe in the folder would stop everything.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise Broken(MISSING_IMAGE, f"{name}: is not a file")
            if facts.st_size > MAX_FILE_BYTES:
                raise Broken(TOO_LARGE_FILE, f"{name}: {facts.st_size:,} bytes")
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Broken(MISSING_IMAGE, name) from None
    except ValueError as error:  # a name that is no text
        raise Broken(MISSING_IMAGE, f"{name[:100]}: {error}") from None
    except OSError as error:
        if error.errno not in _OF_THE_NAME:
            raise UserError(f"{path}: can't be read: {error.strerror or error}") from None
        raise Broken(MISSING_IMAGE, f"{name[:100]}: {error.strerror}") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def checked(data: bytes, name: str) -> bytes:
    """Return image bytes whose header is sound. Raises BadImage that names the image."""
    try:
        check_header(data)
    except BadImage as error:
        raise BadImage(error.reason, f"{name}: {error.detail}") from None
    return data
