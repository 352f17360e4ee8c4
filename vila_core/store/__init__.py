"""One small interface over a directory or a bucket: atomic writes, compare-and-swap, manifests."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from vila_core.errors import UserError
from vila_core.store.artifacts import (
    ArtifactRef,
    fetch,
    fetch_below,
    is_in_artifact,
    publish,
    read_file,
    read_pieces,
    ref_of,
    verify,
)
from vila_core.store.base import Store
from vila_core.store.file import FileStore

__all__ = [
    "ArtifactRef",
    "FileStore",
    "Store",
    "fetch",
    "fetch_below",
    "is_in_artifact",
    "open_store",
    "publish",
    "read_file",
    "read_pieces",
    "ref_of",
    "verify",
]


def open_store(uri: str | Path) -> Store:
    """Open the store at a path, `file:///path` or `s3://bucket/prefix`. Nothing is created yet.

    Raises UserError for another scheme, or an S3 store without endpoint or credentials.
    """
    text = str(uri)
    scheme, separator, _ = text.partition("://")
    if not separator:
        if not text:
            raise UserError("the store's URI is empty; fix: --store PATH, or set VILA_STORE.")
        return FileStore(Path(text))
    parts = urlsplit(text)
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return FileStore(Path(unquote(parts.path)))
    if scheme == "s3" and parts.netloc:
        from vila_core.store.s3 import S3Store

        return S3Store.from_environment(parts.netloc, parts.path.strip("/"))
    raise UserError(
        f"{text}: is not a store; use a path, file:///absolute/path or s3://bucket/prefix."
    )
