"""Checkpoints: whole or absent, safetensors and JSON only, verified when read.

A checkpoint is the folder `step-N` with `weights-*.safetensors`, `optimizer-*.safetensors`,
`state.json` and, written last, `manifest.json` (sha256 and size of each file). It is written
beside, flushed to disk and renamed, so a kill at any moment leaves the earlier ones intact.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vila_core.errors import VilaError
from vila_core.jsonio import dumps
from vila_core.types import QUIET, Reporter

SHARD_BYTES = 2 << 30  # bounds the memory of writing: at most one shard is held on the CPU
_PARTIAL = ".partial-"
Tensors = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: every file is there and has the digest of its manifest."""

    path: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of `kind` ("weights" or "optimizer") by name, on the CPU."""
        for path in sorted(self.path.glob(f"{kind}-*.safetensors")):
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118  (not a mapping)
                    yield name, file.get_tensor(name)


class Checkpoints:
    """The checkpoints below one folder."""

    def __init__(self, folder: Path, *, keep: int, report: Reporter = QUIET) -> None:
        self.folder = folder
        self.keep = keep
        self.report = report

    def latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None. Damaged ones are told and passed over."""
        for step in sorted(self._steps(), reverse=True):
            path = self._path(step)
            problem = _check(path)
            if problem is None:
                state = json.loads((path / "state.json").read_text(encoding="utf-8"))
                return Checkpoint(path, step, state)
            self.report.info(f"checkpoint {path.name} is passed over: {problem}")
        return None

    def save(
        self, step: int, *, weights: Tensors, optimizer: Tensors, state: Mapping[str, Any] | None
    ) -> None:
        """Write the checkpoint of `step` and delete all but the newest `keep`.

        With several ranks every rank calls this, because the tensors are gathered as they are
        taken; `state` is None on all but the one that writes. Raises VilaError when the disk is
        full or not writable; the earlier checkpoints are then as they were.
        """
        if state is None:
            for _ in weights:
                pass
            for _ in optimizer:
                pass
            return
        partial = self.folder / f"{_PARTIAL}{self._path(step).name}"
        try:
            self._clear_partial()
            partial.mkdir(parents=True)
            _write_shards(partial, "weights", weights)
            _write_shards(partial, "optimizer", optimizer)
            _write_text(partial / "state.json", dumps(state))
            _write_manifest(partial)
            target = self._path(step)
            if target.exists():  # a damaged one that `latest` passed over
                shutil.rmtree(target)
            partial.rename(target)
            _sync_folder(self.folder)
            self._prune()
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise VilaError(_explain(error, self.folder, step)) from error

    def _prune(self) -> None:
        for step in sorted(self._steps())[: -self.keep]:
            path = self._path(step)
            # The manifest goes first: killed in between, the rest counts as incomplete.
            (path / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(path)

    def _clear_partial(self) -> None:
        for path in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path)

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step-") for path in self.folder.glob("step-*")]
        return [int(name) for name in names if name.isdigit()]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"


def _check(path: Path) -> str | None:
    """Return what is wrong with the checkpoint at `path`, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for entry in manifest["files"]:
            file = path / entry["path"]
            if file.stat().st_size != entry["size"]:
                return f"{entry['path']} has {file.stat().st_size} bytes, not {entry['size']}"
            if _sha256(file) != entry["sha256"]:
                return f"{entry['path']} does not match its digest"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing (an interrupted write or delete)"
    except (ValueError, KeyError, TypeError) as error:
        return f"manifest.json can't be read ({error})"
    return None


def _write_shards(folder: Path, kind: str, tensors: Tensors) -> None:
    shard: dict[str, torch.Tensor] = {}
    size, number = 0, 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            _write_shard(folder / f"{kind}-{number:05d}.safetensors", shard)
            shard, size, number = {}, 0, number + 1
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    _write_shard(folder / f"{kind}-{number:05d}.safetensors", shard)


def _write_shard(path: Path, shard: dict[str, torch.Tensor]) -> None:
    try:
        save_file(shard, path)
    except SafetensorError as error:  # wraps the operating system's, without its number
        free = shutil.disk_usage(path.parent).free
        number = errno.ENOSPC if free < sum(t.nbytes for t in shard.values()) else errno.EIO
        raise OSError(number, str(error), str(path)) from error
    _sync(path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _write_manifest(folder: Path) -> None:
    files = [
        {"path": path.name, "size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    ]
    _write_text(folder / "manifest.json", dumps({"files": files}))
    _sync_folder(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, folder: Path, step: int) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"{folder}: no space left on the disk while writing the checkpoint of step {step}; "
            "free some or move the store. Earlier checkpoints are intact: resume continues."
        )
    reason = error.strerror or str(error)
    return f"{folder}: the checkpoint of step {step} can't be written: {reason}."
