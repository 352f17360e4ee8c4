"""Checkpoints: whole or absent, safetensors and JSON only, verified when read.

A checkpoint is the folder `step-N` with `weights-*.safetensors`, `optimizer-*.safetensors`,
`state.json` and, written last, `manifest.json` (sha256 and size of each file). It is written
beside, flushed to disk and renamed, so a kill at any moment leaves the earlier ones intact.

In the background, `save` only copies the tensors, and a thread writes them while training goes on.
With a mirror, each complete checkpoint is copied there too, and fetched where the folder has none
as new. Ranks of several machines, whose folders differ, agree on the checkpoint that they continue.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from vila_core.errors import Damaged, VilaError
from vila_core.jsonio import dumps
from vila_core.train.background import BackgroundTask, Staging, Tensors
from vila_core.train.tensor_file import Written, write_tensors, write_text
from vila_core.types import QUIET, Mirror, Reporter

SHARD_BYTES = 2 << 30  # bounds the memory of saving at once: one shard is held on the CPU
_PARTIAL = ".partial-"

Gather = Callable[[Any], list[Any]]
"""Gives every rank the (JSON-like) values of all ranks, in order of rank."""


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

    def tensor(self, kind: str, name: str) -> torch.Tensor | None:
        """Return one tensor, None when there is no such."""
        for path in sorted(self.path.glob(f"{kind}-*.safetensors")):
            with safe_open(path, framework="pt", device="cpu") as file:
                if name in file.keys():  # noqa: SIM118
                    return file.get_tensor(name)
        return None


class Checkpoints:
    """The checkpoints below one folder.

    The newest `keep` stay, and for ever those whose step is a multiple of `keep_every` (0: none).
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        keep_every: int = 0,
        background: bool = False,
        mirror: Mirror | None = None,
        report: Reporter = QUIET,
    ) -> None:
        self.folder = folder
        self.keep, self.keep_every = keep, keep_every
        self.mirror = mirror
        self.report = report
        self._staging = Staging() if background else None
        self._task = BackgroundTask()
        self._said = False

    def latest(self, gather: Gather | None = None) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None. Damaged ones are told and passed over.

        One that is newer in the mirror is fetched. With several ranks `gather` is theirs, and all
        get the same checkpoint, byte for byte: the newest that each has or can fetch. (A machine
        may have one that was not copied to the mirror, or another of the same step, left from an
        earlier try.) Raises VilaError if the mirror can't be read.
        """
        gather = gather or _alone
        mine = {*self._steps(), *(self.mirror.steps() if self.mirror else ())}
        for step in sorted(set.intersection(*map(set, gather(sorted(mine)))), reverse=True):
            digests = gather(self._have(step))
            if None not in digests and len(set(digests)) > 1:
                if os.environ.get("LOCAL_RANK", "0") == "0":  # once per machine
                    self._have(step, afresh=True)
                gather(None)
                digests = gather(self._have(step))
            if None in digests:
                continue
            if len(set(digests)) == 1:
                return open_checkpoint(self._path(step))
            self.report.info(f"checkpoint step-{step} is passed over: the machines have different")
        return None

    def _have(self, step: int, *, afresh: bool = False) -> str | None:
        """Return the digest of a checkpoint's manifest, None if it isn't whole here or there.

        `afresh`: the mirror's, whatever is here.
        """
        path = self._path(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):  # the ranks of one machine share the folder
            problem = problem_of(path) if path.exists() else "it is not here"
            if problem is None and not afresh:
                return _sha256(path / "manifest.json")
            if self.mirror is not None and step in self.mirror.steps():
                return self._fetch(self.mirror, step)
        if path.exists():
            self.report.info(f"checkpoint {path.name} is passed over: {problem}")
        return None

    def save(
        self, step: int, *, weights: Tensors, optimizer: Tensors, state: Mapping[str, Any] | None
    ) -> None:
        """Write the checkpoint of `step` and delete those that need not stay.

        With several ranks every rank calls this, because the tensors are gathered as they are
        taken; `state` is None on all but the one that writes. In the background it returns when the
        tensors are copied, having waited for the save before it. Raises VilaError when the disk is
        full or not writable; in the background `check`, `wait` or the next `save` raises it. The
        earlier checkpoints are then as they were.
        """
        if state is None:
            for _ in weights:
                pass
            for _ in optimizer:
                pass
            return
        text = dumps(state)
        if self._staging is None:
            self._write(step, weights, optimizer, text)
            return
        if self._task.busy and not self._said:
            self._said = True
            self.report.info(
                f"the save before step {step} is not on the disk yet: training waits for it (said "
                "once; raise save_every, or use a faster disk)"
            )
        self._task.wait()
        copies = [
            self._staging.copy(kind, tensors)
            for kind, tensors in (("weights", weights), ("optimizer", optimizer))
        ]
        self._task.start(lambda: self._write(step, copies[0], copies[1], text))

    def check(self) -> None:
        """Raise VilaError if a save in the background has failed. Costs nothing."""
        self._task.check()

    def wait(self) -> None:
        """Return when the last save is on the disk. Raises VilaError if it failed."""
        self._task.wait()

    def close(self) -> None:
        """Let a save in flight end, after a failure of the training itself."""
        try:
            self._task.wait()
        except VilaError as error:  # the failure that ends the training is the one to raise
            self.report.info(f"error: {error}")

    def _write(self, step: int, weights: Tensors, optimizer: Tensors, state: str) -> None:
        target = self._path(step)
        partial = self.folder / f"{_PARTIAL}{target.name}"
        try:
            self._clear_partial()
            partial.mkdir(parents=True)
            files = [
                *_write_shards(partial, "weights", weights),
                *_write_shards(partial, "optimizer", optimizer),
                write_text(partial / "state.json", state),
            ]
            manifest = {"files": [file.as_json() for file in sorted(files, key=lambda f: f.path)]}
            write_text(partial / "manifest.json", dumps(manifest))
            _sync_folder(partial)
            if target.exists():  # a damaged one that `latest` passed over
                shutil.rmtree(target)
            partial.rename(target)
            _sync_folder(self.folder)
            self._prune()
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise VilaError(_explain(error, self.folder, step)) from error
        if self.mirror is not None:
            self._push(self.mirror, step)

    def _push(self, mirror: Mirror, step: int) -> None:
        """Copy a checkpoint to the mirror. A failure is told, and no reason to stop training."""
        try:
            mirror.push(step, self._path(step))
            old = expired(mirror.steps(), keep=self.keep, keep_every=self.keep_every)
            for other in old:
                mirror.remove(other)
        except VilaError as error:
            self.report.info(
                f"checkpoint step-{step} is on this machine only: {error} Training goes on; the "
                "next save tries again."
            )

    def _fetch(self, mirror: Mirror, step: int) -> str | None:
        """Copy a checkpoint from the mirror; return its manifest's digest, None if not whole."""
        target = self._path(step)
        partial = self.folder / f"{_PARTIAL}{target.name}"
        self._clear_partial()
        try:
            mirror.pull(step, partial)
            problem = problem_of(partial)
        except Damaged as error:
            problem = str(error)
        if problem is not None:
            self.report.info(f"checkpoint {target.name} in the store is passed over: {problem}")
            shutil.rmtree(partial, ignore_errors=True)
            return None
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
        partial.rename(target)
        self.report.info(f"checkpoint {target.name} was fetched from the store, verified")
        return _sha256(target / "manifest.json")

    def _prune(self) -> None:
        for step in expired(self._steps(), keep=self.keep, keep_every=self.keep_every):
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


def _alone(value: Any) -> list[Any]:
    return [value]


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`, which must be complete."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(path, state["step"], state)


def expired(steps: Iterable[int], *, keep: int, keep_every: int) -> list[int]:
    """Return those of `steps` that need not stay: neither among the newest `keep`, nor kept."""
    old = sorted(steps)[:-keep]
    return [step for step in old if not (keep_every and step % keep_every == 0)]


def problem_of(path: Path) -> str | None:
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


def _write_shards(folder: Path, kind: str, tensors: Tensors) -> list[Written]:
    files: list[Written] = []
    shard: dict[str, torch.Tensor] = {}
    size = 0

    def flush() -> None:
        files.append(write_tensors(folder / f"{kind}-{len(files):05d}.safetensors", shard))

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
            shard, size = {}, 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    flush()
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time in."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
