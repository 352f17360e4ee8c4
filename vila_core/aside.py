"""A folder that is there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vila_core.errors import UserError, VilaError


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Give the path of a folder to make beside `out`, which becomes `out` at the end, or goes.

    All in it is then as readable as the umask allows, whatever those who wrote it made of that.

    Raises UserError where `out` exists or can't be made, VilaError for what can't be written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists already; fix: choose a new folder, or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: can't be written: {error.strerror or error}") from None
    made = scratch / "made"
    try:
        yield made
        _settle(made, like=scratch / "like")
        made.rename(out)
    except OSError as error:
        raise VilaError(f"{out}: can't be written: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _settle(made: Path, like: Path) -> None:
    """Bring files to the disk, and give all the rights of the new folder `like`.

    safetensors lets only the owner read its files; a copied folder has its source's rights.
    """
    like.mkdir()
    rights = like.stat().st_mode & 0o777
    made.chmod(rights)
    for path in made.rglob("*"):
        if path.is_symlink():
            continue
        path.chmod(rights if path.is_dir() else rights & 0o666)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
