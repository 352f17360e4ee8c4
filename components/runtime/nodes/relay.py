"""What nodes say while they train, through the store: the only thing that they share.

    <place>/call.json                     what the nodes run; written by the step
    <place>/lease.json                    the step's sign of life
    <place>/node-N/began.json             node N is there
    <place>/node-N/said/00000001.json     calls of its Reporter and lines that it printed, in order
    <place>/node-N/files/00000001         a file that it attaches
    <place>/node-N/{result,error}.json    how it ended

`<place>` is `runs/<run>/tasks/<task>/<attempt>/nodes/<start>`. What was said is removed when it is
passed on.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.runtime.sinks import finite
from vila_core.errors import NotFound, StoreError
from vila_core.jsonio import dumps
from vila_core.store import Store
from vila_core.types import Reporter

LOCAL_SECONDS, REMOTE_SECONDS = 0.3, 2.0
_LINES = 500  # of what a node printed, in one piece
_PLACE = re.compile(r"node-(\d+)/(said/\d+|result|error|began)\.json")


def seconds_between(store: Store) -> float:
    """Return how often a store is written to and asked."""
    return REMOTE_SECONDS if store.local_path("") is None else LOCAL_SECONDS


def node_folder(place: str, number: int) -> str:
    """Return the store's folder of one node."""
    return f"{place}/node-{number}"


class Outbox:
    """A node's Reporter: a thread writes what was said to the store, in order.

    `log` is the file with what the node prints; whole lines of it are sent too. While the store
    does not answer, everything waits here.
    """

    def __init__(self, store: Store, folder: str, log: Path) -> None:
        self._store, self._folder, self._log = store, folder, log
        self._said: list[list[Any]] = []
        self._progress: list[Any] | None = None
        self._read = 0  # bytes of the log
        self._piece = self._file = 0
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="vila-outbox")
        self._thread.start()

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        """See `Reporter`; only the latest is sent."""
        with self._lock:
            self._progress = ["progress", done, total, unit, finite(values)]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Reporter`."""
        self._say("metrics", step, finite(values))

    def info(self, text: str) -> None:
        """See `Reporter`."""
        self._say("info", text)

    def attach(self, path: Path, name: str) -> None:
        """See `Reporter`; a file that can't be sent is told."""
        with self._lock:
            self._file += 1
            key = f"{self._folder}/files/{self._file:08d}"
        try:
            self._store.upload(key, path)
        except StoreError as error:
            self.info(f"{name} is not in the record: {error}")
            return
        self._say("attach", key, name)

    def close(self) -> None:
        """Send the rest. Raises StoreError if that fails."""
        self._end.set()
        self._thread.join()
        while self._flush():
            pass

    def _say(self, *words: Any) -> None:
        with self._lock:
            self._said.append(list(words))

    def _beat(self) -> None:
        seconds = seconds_between(self._store)
        while not self._end.wait(seconds):
            with contextlib.suppress(StoreError):  # what is not sent goes with the next
                self._flush()

    def _flush(self) -> bool:
        """Send what there is; return whether there was anything."""
        with self._flushing:
            with self._lock:
                said, progress = list(self._said), self._progress
            lines, read = self._printed()
            everything = [*said, *([progress] if progress else []), *lines]
            if not everything:
                return False
            key = f"{self._folder}/said/{self._piece + 1:08d}.json"
            self._store.write(key, dumps(everything).encode())
            with self._lock:
                del self._said[: len(said)]
                if self._progress is progress:
                    self._progress = None
            self._piece += 1
            self._read = read
            return True

    def _printed(self) -> tuple[list[list[str]], int]:
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(self._read)
            data = file.read(1 << 20)
            lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)[:_LINES]
            texts = [line.decode(errors="replace").rstrip() for line in lines]
            return [["print", text] for text in texts if text], self._read + sum(map(len, lines))
        return [], self._read


@dataclass
class Seen:
    """What the nodes have left so far, by number."""

    began: set[int] = field(default_factory=set)
    results: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, Any] = field(default_factory=dict)


class Relay:
    """The step's side: passes on to `report` what the nodes of one start say."""

    def __init__(self, store: Store, place: str, report: Reporter) -> None:
        self._store, self._place, self._report = store, place, report
        self.seen = Seen()

    def take(self) -> Seen:
        """Pass on what is new. Raises StoreError if the store can't be read."""
        for key in self._store.list(f"{self._place}/node-"):
            found = _PLACE.fullmatch(key.removeprefix(f"{self._place}/"))
            if found is None:
                continue
            number, what = int(found[1]), found[2]
            if what == "began":
                self.seen.began.add(number)
            elif what in ("result", "error"):
                kept = self.seen.results if what == "result" else self.seen.errors
                if number not in kept:
                    kept[number] = json.loads(self._store.read(key))
            else:
                with contextlib.suppress(NotFound):
                    for words in json.loads(self._store.read(key)):
                        self._pass_on(number, *words)
                self._store.delete(key)
        return self.seen

    def _pass_on(self, number: int, method: str, *words: Any) -> None:
        if method == "print":
            self._report.info(f"node {number}: {words[0]}")
        elif method == "progress":
            done, total, unit, values = words
            self._report.progress(done, total, unit, **_numbers(values))
        elif method == "metrics":
            self._report.metrics(words[0], _numbers(words[1]))
        elif method == "attach":
            key, name = words
            with tempfile.TemporaryDirectory(prefix="vila-attached-") as folder:
                self._store.download(key, Path(folder) / "file")
                self._report.attach(Path(folder) / "file", name)
            self._store.delete(key)
        else:
            self._report.info(words[0])


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in values.items()}
