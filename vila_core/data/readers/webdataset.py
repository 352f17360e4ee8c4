"""WebDataset tars as anybody may have written them, and VILA's own with `wids-meta.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vila_core.data.readers.files import corpus_files
from vila_core.data.readers.folder import unsafe
from vila_core.data.readers.tars import TarFile, refuse_cut_off
from vila_core.errors import UserError
from vila_core.jsonio import read_object

META = "wids-meta.json"
KINDS = ("VILA-WebDataset", "wids-shard-index-v1", "wids-shard-index")
_TAR = (".tar",)


def files(path: Path) -> Sequence[TarFile]:
    """Return the tars of a corpus: `path` itself, or those in folder `path`, by name.

    Raises UserError when there are none, or when one is cut off.
    """
    packed = path.name.endswith((".tar.gz", ".tgz"))
    if packed or (path.is_dir() and not any(path.rglob("*.tar")) and any(path.rglob("*.tar.gz"))):
        raise UserError(
            f"{path}: compressed tars can't be read in places.\n  fix: gunzip *.tar.gz; images "
            "don't get smaller by it anyway"
        )
    return _whole(TarFile(one.path, one.name, one.shard) for one in corpus_files(path, _TAR))


def listed_files(path: Path) -> Sequence[TarFile]:
    """Return the tars that `wids-meta.json` in folder `path` lists, in its order.

    Raises UserError when there is no such list, or when a tar isn't the one that it means.
    """
    meta = path / META if path.is_dir() else path
    if not meta.is_file():
        raise UserError(f"{path}: has no {META}; for plain tars take the format 'webdataset'")
    content = read_object(meta)
    kind, version = content.get("__kind__", KINDS[0]), content.get("wids_version", 1)
    if kind not in KINDS or version != 1:
        raise UserError(
            f"{meta}: is of kind {kind!r}, version {version!r}; read are {', '.join(KINDS)}, "
            "version 1"
        )
    rows = content.get("shardlist")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{meta}: 'shardlist' is no list of tars")
    names = [_listed(meta, row) for row in rows]
    by_name = {one.name: one for one in corpus_files(meta.parent, _TAR)}
    for number, name in enumerate(names):
        if name not in by_name:
            raise UserError(f"{meta}: lists {name}, which is not in {meta.parent}")
        if name in names[:number]:
            raise UserError(f"{meta}: lists {name} twice")
    return _whole(TarFile(by_name[name].path, name, by_name[name].shard) for name in names)


def _listed(meta: Path, row: Any) -> str:
    """Return a tar's name in the folder. Absolute ones, as VILA writes, count from its end."""
    url = row.get("url") if isinstance(row, dict) else None
    if not isinstance(url, str) or not url.endswith(".tar"):
        raise UserError(f"{meta}: an entry of 'shardlist' has no 'url' of a .tar: {row!r:.200}")
    if "://" in url:
        raise UserError(
            f"{meta}: {url} lies elsewhere.\n  fix: fetch the tars into {meta.parent} first"
        )
    name = url
    if url.startswith("/"):
        parts = PurePosixPath(url).parts[1:]
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((tail for tail in tails if _is_in(meta.parent, tail)), parts[-1])
    name = PurePosixPath(name).as_posix()
    if unsafe(name):
        raise UserError(f"{meta}: {url!r} leads out of its folder")
    size, path = row.get("filesize"), meta.parent / name
    if isinstance(size, int) and path.is_file() and path.stat().st_size != size:
        raise UserError(
            f"{path}: has {path.stat().st_size:,} bytes, {META} says {size:,}.\n"
            "  fix: fetch it again"
        )
    return name


def _is_in(folder: Path, name: str) -> bool:
    return not unsafe(name) and (folder / name).is_file()


def _whole(found: Iterable[TarFile]) -> list[TarFile]:
    tars = list(found)
    refuse_cut_off(tar.path for tar in tars)
    return tars
