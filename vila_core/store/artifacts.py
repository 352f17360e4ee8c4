"""Artifacts: folders addressed by their content, `artifacts/<sha256 of the manifest>/`.

`manifest.json` lists every file with size and sha256 and is what makes an artifact exist: it comes
last. An artifact is never changed; its files are read-only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.errors import Damaged, NotFound, StoreError
from vila_core.jsonio import dumps
from vila_core.store.base import RESERVED, Store
from vila_core.store.file import FileStore, sync_folder

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ArtifactRef:
    """Where an artifact is, and the sha256 of its manifest. The digest decides, not the URI."""

    uri: str
    sha256: str

    def as_json(self) -> dict[str, str]:
        """Return the reference as a JSON-able mapping."""
        return {"uri": self.uri, "sha256": self.sha256}


def ref_of(store: Store, sha256: str) -> ArtifactRef:
    """Return the reference of the artifact with that digest in `store` (which may lack it)."""
    return ArtifactRef(uri=f"{store.uri}/artifacts/{sha256}", sha256=sha256)


def is_in_artifact(path: Path) -> bool:
    """Return whether a path lies in the folder of an artifact, where nothing may be changed."""
    inside = path.resolve()
    return any(
        folder.parent.name == "artifacts" and (folder / MANIFEST).is_file()
        for folder in (inside, *inside.parents)
    )


def publish(store: Store, folder: Path, *, move: bool = False) -> ArtifactRef:
    """Store a folder; the same content again is a no-op, a damaged copy is replaced.

    `move` gives the folder away: into a directory store it is renamed instead of copied. Raises
    StoreError for a link or a special file in the folder, and for a `manifest.json` at its top.
    """
    manifest = _manifest(folder)
    ref = ref_of(store, hashlib.sha256(manifest).hexdigest())
    with contextlib.suppress(NotFound, Damaged):
        verify(store, ref)
        return ref
    if isinstance(store, FileStore):
        _publish_local(store, folder, ref, manifest, move=move)
    else:
        for entry in json.loads(manifest)["files"]:
            key = f"artifacts/{ref.sha256}/{entry['path']}"
            store.upload(key, folder / entry["path"], sha256=entry["sha256"])
        store.write(f"artifacts/{ref.sha256}/{MANIFEST}", manifest)
    return ref


def fetch(store: Store, ref: ArtifactRef, cache: Path | None = None) -> Path:
    """Return a local, verified, read-only folder with the artifact's files.

    In a directory store that is the artifact itself. From a remote one it is downloaded to
    `cache` (default: `VILA_CACHE` or ~/.cache/vila) and kept. Raises NotFound, Damaged.
    """
    if isinstance(store, FileStore):
        verify(store, ref)
        return store.local_path(f"artifacts/{ref.sha256}")
    local = FileStore(cache or cache_folder())
    with contextlib.suppress(NotFound, Damaged):
        return fetch(local, ref)
    manifest = _read_manifest(store, ref)
    staging = local.root / "artifacts" / f"{RESERVED}{uuid.uuid4().hex}"
    try:
        for entry in manifest["files"]:
            _download(store, ref, entry, staging / entry["path"])
        staging.mkdir(parents=True, exist_ok=True)
        _publish_local(local, staging, ref, dumps(manifest).encode(), move=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return local.local_path(f"artifacts/{ref.sha256}")


def fetch_below(store: Store, ref: ArtifactRef, prefix: str, target: Path) -> Path:
    """Copy the files of an artifact whose paths begin with `prefix` to `target`, verified.

    From a directory store nothing is copied: its artifact is returned, those files verified.
    Raises NotFound, Damaged.
    """
    local = store.local_path(f"artifacts/{ref.sha256}")
    for entry in _read_manifest(store, ref)["files"]:
        if entry["path"].startswith(prefix):
            if local is None:
                _download(store, ref, entry, target / entry["path"])
            else:
                _check_file(local / entry["path"], entry, ref)
    return local or target


def verify(store: Store, ref: ArtifactRef) -> None:
    """Check the manifest and all files. Raises NotFound, or Damaged naming the first bad file.

    In a remote store the files are only looked for: their bytes are checked when fetched.
    """
    manifest = _read_manifest(store, ref)
    if isinstance(store, FileStore):
        folder = store.local_path(f"artifacts/{ref.sha256}")
        for entry in manifest["files"]:
            _check_file(folder / entry["path"], entry, ref)
        return
    found = set(store.list(f"artifacts/{ref.sha256}/"))
    for entry in manifest["files"]:
        if f"artifacts/{ref.sha256}/{entry['path']}" not in found:
            raise Damaged(f"{ref.uri}/{entry['path']}: is missing from the artifact.")


def read_file(store: Store, ref: ArtifactRef, path: str) -> bytes:
    """Return one file of an artifact, verified, without the others. Raises NotFound, Damaged."""
    entry = _entry(store, ref, path)
    data = store.read(f"artifacts/{ref.sha256}/{path}")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Damaged(f"{ref.uri}/{path}: does not match its digest; remove the artifact.")
    return data


def read_pieces(store: Store, ref: ArtifactRef, path: str) -> Iterator[bytes]:
    """Yield one file of an artifact piece by piece, for what is too large to hold.

    Believe it once the last piece was taken: that it is Damaged is known only then. From a remote
    store it is downloaded to a temporary file first. Raises NotFound, Damaged.
    """
    entry = _entry(store, ref, path)
    if store.local_path(f"artifacts/{ref.sha256}/{path}") is None:
        with tempfile.TemporaryDirectory() as folder:
            _download(store, ref, entry, Path(folder) / "file")
            yield from FileStore(Path(folder)).chunks("file")
        return
    found = hashlib.sha256()
    for piece in store.chunks(f"artifacts/{ref.sha256}/{path}"):
        found.update(piece)
        yield piece
    if found.hexdigest() != entry["sha256"]:
        raise Damaged(f"{ref.uri}/{path}: does not match its digest; remove the artifact.")


def cache_folder() -> Path:
    """Return where remote artifacts and work folders are kept on this machine."""
    return Path(os.environ.get("VILA_CACHE") or Path.home() / ".cache" / "vila")


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> bytes:
    if not folder.is_dir():
        raise StoreError(f"{folder}: there is no such folder to publish.")
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StoreError(f"{path}: is a link or special file; an artifact holds plain files.")
        if name == MANIFEST:
            raise StoreError(f"{path}: the name is reserved for the artifact's own manifest.")
        if path.is_file():
            files.append({"path": name, "size": path.stat().st_size, "sha256": file_sha256(path)})
    files.sort(key=lambda entry: entry["path"])
    return dumps({"files": files}).encode()


def _publish_local(
    store: FileStore, folder: Path, ref: ArtifactRef, manifest: bytes, *, move: bool
) -> None:
    """Stage the complete artifact beside its place, then put it there by one rename."""
    target = store.local_path(f"artifacts/{ref.sha256}")
    staging = target.parent / f"{RESERVED}{uuid.uuid4().hex}"
    names = [entry["path"] for entry in json.loads(manifest)["files"]]
    try:
        with store.explained(f"artifacts/{ref.sha256}", "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(folder, staging, names, move=move)
            for name in names:
                _seal(staging / name)
            (staging / MANIFEST).write_bytes(manifest)
            _seal(staging / MANIFEST)
            for base in [staging, *(path for path in staging.rglob("*") if path.is_dir())]:
                sync_folder(base)
            try:
                staging.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
                _replace_if_damaged(store, staging, target, ref)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _place(folder: Path, staging: Path, names: list[str], *, move: bool) -> None:
    if move:
        with contextlib.suppress(OSError):  # another file system: copy
            folder.rename(staging)
            return
    staging.mkdir()
    for name in names:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, staging / name)


def _replace_if_damaged(store: FileStore, staging: Path, target: Path, ref: ArtifactRef) -> None:
    """Keep what is there if it is whole (somebody was faster), else put the new one there."""
    try:
        verify(store, ref)
    except (NotFound, Damaged):
        bad = target.parent / f"{RESERVED}{uuid.uuid4().hex}"
        target.rename(bad)
        staging.rename(target)
        shutil.rmtree(bad, ignore_errors=True)


def _seal(path: Path) -> None:
    """Make a file durable and read-only."""
    path.chmod(0o644)  # an input may be read-only already
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    path.chmod(0o444)


def _entry(store: Store, ref: ArtifactRef, path: str) -> dict[str, Any]:
    for entry in _read_manifest(store, ref)["files"]:
        if entry["path"] == path:
            return entry
    raise NotFound(f"{ref.uri}: the artifact has no file {path}.")


def _read_manifest(store: Store, ref: ArtifactRef) -> dict[str, Any]:
    try:
        data = store.read(f"artifacts/{ref.sha256}/{MANIFEST}")
    except NotFound:
        raise NotFound(f"{ref.uri}: there is no such artifact in {store.uri}.") from None
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise Damaged(f"{ref.uri}/{MANIFEST}: does not match the artifact's digest; remove it.")
    return json.loads(data)


def _download(store: Store, ref: ArtifactRef, entry: Mapping[str, Any], path: Path) -> None:
    try:
        store.download(f"artifacts/{ref.sha256}/{entry['path']}", path, sha256=entry["sha256"])
    except NotFound:
        raise Damaged(f"{ref.uri}/{entry['path']}: is missing from the artifact.") from None
    except Damaged as error:
        raise Damaged(f"{error} Remove the artifact.") from None


def _check_file(path: Path, entry: Mapping[str, Any], ref: ArtifactRef) -> None:
    try:
        good = path.stat().st_size == entry["size"] and file_sha256(path) == entry["sha256"]
    except FileNotFoundError:
        raise Damaged(f"{ref.uri}/{entry['path']}: is missing from the artifact.") from None
    if not good:
        raise Damaged(f"{ref.uri}/{entry['path']}: does not match its digest; remove the artifact.")
