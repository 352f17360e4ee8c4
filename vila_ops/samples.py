"""Questions and images of evaluated samples, out of the data artifact that the evaluation asked.

Nothing is trusted: files are verified by their digests, images are decoded, shrunk and encoded
anew, and what was read is kept in bounded memory. Works on any store, file by file.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components.runtime import record
from vila_core.errors import Damaged, NotFound, UserError
from vila_core.eval.files import ImageRef, StoredImage
from vila_core.eval.items import ITEMS_FILE, TASK_FILE, Case, Item
from vila_core.eval.prompts import make_prompt
from vila_core.images import decode, extension
from vila_core.store import Store
from vila_core.store.artifacts import MANIFEST
from vila_ops.kept import Kept

MOST_BYTES = 48 * 2**20
"""Held in memory of a store's samples: lists of files, questions, and images as they are shown."""
MOST_FILE = 64 * 2**20
"""Longer files of an evaluation set are not opened."""
MOST_PIXELS = 24_000_000
LONGEST_SIDE = 512

FOLDER = "eval"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TASK = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Shown:
    """An image of a prompt. `path` is below `eval/` of the artifact; see `Samples.image`."""

    artifact: str
    path: str


Part = str | Shown


@dataclass(frozen=True)
class Sample:
    """A question as the model was asked: its demonstrations with their answers, then its own parts.

    `as_asked` tells whether this is the prompt that the record is of, by the record's digest; None
    where the record has none.
    """

    key: str
    reference: str
    question: tuple[Part, ...]
    demos: tuple[tuple[tuple[Part, ...], str], ...] = ()
    as_asked: bool | None = None

    @property
    def text(self) -> str:
        """The question's words, images left out."""
        return "".join(part for part in self.question if isinstance(part, str)).strip()

    @property
    def images(self) -> tuple[Shown, ...]:
        """The question's own images."""
        return tuple(part for part in self.question if isinstance(part, Shown))


@dataclass(frozen=True)
class Source:
    """What an evaluation asked: a data artifact of the store, or files elsewhere (`place`)."""

    artifact: str = ""
    place: str = ""


@dataclass(frozen=True)
class Picture:
    """An image as it is sent to a browser."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class _Set:
    """An evaluation set: where each question's line lies, and what ends an answer."""

    data: bytes
    lines: Mapping[str, tuple[int, int]]
    stop: str


class Samples:
    """The samples of one store."""

    def __init__(self, store: Store, most_bytes: int = MOST_BYTES) -> None:
        """Read nothing yet. At most `most_bytes` are held."""
        self._store = store
        self._files: Kept[Mapping[str, tuple[str, int]]] = Kept(most_bytes // 3)
        self._sets: Kept[_Set] = Kept(most_bytes // 3)
        self._pictures: Kept[Picture] = Kept(most_bytes // 3)
        self._sources: Kept[Source] = Kept(2**20)
        self._one = threading.Lock()  # pixels of one image at a time

    def of_record(self, run_id: str, task: str, row: Mapping[str, Any]) -> Sample:
        """Return the sample that a record of a run's task is of.

        Raises UserError where the questions lie outside of the store, NotFound where the artifact
        or the question is gone, Damaged, Unreachable.
        """
        source = self.source(run_id, task)
        if not source.artifact:
            where = f"at {source.place}" if source.place else "outside of the store"
            raise UserError(
                f"the questions of {row.get('task', task)} lie {where}, not in the store; answers, "
                "references and scores are from the records"
            )
        return self.sample(
            source.artifact,
            str(row.get("task", "")),
            str(row.get("key", "")),
            shots=int(row.get("shots") or 0),
            digest=str(row.get("prompt_digest") or ""),
        )

    def source(self, run_id: str, task: str) -> Source:
        """Return what an evaluation asked. Raises NotFound for one that has not finished."""

        def look() -> tuple[Source, int]:
            attempt = record.finished_attempt(self._store, run_id, task)
            if attempt is None:
                raise NotFound(f"{run_id}:{task}: the evaluation has not finished.")
            inputs = (attempt.started.get("key_parts") or {}).get("inputs") or {}
            found = inputs.get("data")
            if isinstance(found, str) and "benchmark" not in attempt.config:
                return Source(artifact=found), 256
            return Source(place=str(attempt.config.get("data") or "")), 256

        return self._sources.get((run_id, task), look)

    def sample(
        self, artifact: str, task: str, key: str, *, shots: int = 0, digest: str = ""
    ) -> Sample:
        """Return a question of an evaluation set; `digest` is that of the prompt as it was asked.

        Raises NotFound, Damaged.
        """
        found = self._set(artifact, task)
        if key not in found.lines:
            raise NotFound(f"{_short(artifact)}: {task} has no question '{key}'.")
        begin, end = found.lines[key]
        try:
            line = json.loads(found.data[begin:end])
            case = self._case(line, artifact, task)
            demos = tuple(
                self._case(demo, artifact, task) for demo in line.get("demos", ())[:shots]
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Damaged(f"{_short(artifact)}: {task}: '{key}' is no question.") from None
        same = None
        if digest:
            prompt = make_prompt(Item(key, "", case, 0.0, demos), shots, found.stop)
            known = self._contents(artifact, prompt.images)
            same = known is not None and prompt.digest(known) == digest
        return Sample(
            key,
            case.answer,
            _shown(case, artifact),
            tuple((_shown(demo, artifact), demo.answer) for demo in demos),
            same,
        )

    def image(self, artifact: str, path: str) -> Picture:
        """Return an image of an evaluation set as browsers are shown it, at most 512 pixels wide.

        `path` is below `eval/`. Raises NotFound, Damaged, and BadImage for a file that is none or
        is too large.
        """
        return self._pictures.get((artifact, path), lambda: self._picture(artifact, path))

    def _picture(self, artifact: str, path: str) -> tuple[Picture, int]:
        data = self._read(artifact, f"{FOLDER}/{path}")
        with self._one:
            image = decode(data, max_pixels=MOST_PIXELS, at_least=LONGEST_SIDE)
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            out = io.BytesIO()
            if extension(data) == "jpg":
                image.save(out, "JPEG", quality=85)
                made = Picture(out.getvalue(), "image/jpeg")
            else:
                image.save(out, "PNG")
                made = Picture(out.getvalue(), "image/png")
        return made, len(made.data) + len(path) + 200

    def _set(self, artifact: str, task: str) -> _Set:
        if not _TASK.fullmatch(task):
            raise NotFound(f"'{task}' is no evaluation set.")

        def load() -> tuple[_Set, int]:
            settings = json.loads(self._read(artifact, f"{FOLDER}/{task}/{TASK_FILE}"))
            data = self._read(artifact, f"{FOLDER}/{task}/{ITEMS_FILE}")
            lines: dict[str, tuple[int, int]] = {}
            begin = 0
            for line in data.split(b"\n"):
                if line.strip():
                    lines[json.loads(line)["key"]] = (begin, begin + len(line))
                begin += len(line) + 1
            return _Set(data, lines, settings["stop"]), len(data) + 250 * len(lines)

        try:
            return self._sets.get((artifact, task), load)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Damaged(f"{_short(artifact)}: {FOLDER}/{task} is no evaluation set.") from None

    def _case(self, value: Mapping[str, Any], artifact: str, task: str) -> Case:
        parts: list[str | ImageRef] = []
        for part in value["parts"]:
            if part.get("image") is not None:
                path = posixpath.normpath(f"{task}/{part['image']}")
                parts.append(StoredImage(self._store.uri, f"artifacts/{artifact}/{FOLDER}/{path}"))
            else:
                parts.append(str(part["text"]))
        return Case(tuple(parts), str(value["answer"]))

    def _contents(self, artifact: str, images: Iterable[ImageRef]) -> dict[ImageRef, bytes] | None:
        """Return the digests of images by the artifact's manifest; None where it lacks one."""
        files = self._list(artifact)
        paths = {image: _path(image, artifact) for image in images}
        if any(path not in files for path in paths.values()):
            return None
        return {image: bytes.fromhex(files[path][0]) for image, path in paths.items()}

    def _read(self, artifact: str, path: str) -> bytes:
        files = self._list(artifact)
        if path not in files:
            raise NotFound(f"{_short(artifact)}: there is no {path} in it.")
        digest, size = files[path]
        if size > MOST_FILE:
            raise Damaged(f"{_short(artifact)}: {path} has {size:,} bytes, too many to be shown.")
        data = self._store.read(f"artifacts/{artifact}/{path}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise Damaged(f"{_short(artifact)}: {path} does not match its digest.")
        return data

    def _list(self, artifact: str) -> Mapping[str, tuple[str, int]]:
        """Return digest and size of each file of an artifact's evaluation sets."""
        if not _SHA256.fullmatch(artifact):
            raise NotFound(f"'{artifact}' is no artifact's digest.")

        def load() -> tuple[Mapping[str, tuple[str, int]], int]:
            try:
                data = self._store.read(f"artifacts/{artifact}/{MANIFEST}")
            except NotFound:
                raise NotFound(
                    f"{_short(artifact)}: the data that was asked about is not in the store any "
                    "more, so that questions and images can't be shown"
                ) from None
            if hashlib.sha256(data).hexdigest() != artifact:
                raise Damaged(f"{_short(artifact)}: its manifest does not match its digest.")
            files = {
                entry["path"]: (entry["sha256"], entry["size"])
                for entry in json.loads(data)["files"]
                if entry["path"].startswith(f"{FOLDER}/")
            }
            return files, 300 * len(files) + 300

        return self._files.get(artifact, load)


def _shown(case: Case, artifact: str) -> tuple[Part, ...]:
    prefix = f"{FOLDER}/"
    return tuple(
        part if isinstance(part, str) else Shown(artifact, _path(part, artifact)[len(prefix) :])
        for part in case.parts
    )


def _path(image: ImageRef, artifact: str) -> str:
    assert isinstance(image, StoredImage)
    return image.key[len(f"artifacts/{artifact}/") :]


def _short(artifact: str) -> str:
    return f"artifacts/{artifact[:12]}"
