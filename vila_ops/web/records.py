"""What pages need of a task's files: their ends, and points for a curve, whatever is in them."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping

from components.runtime.secrets import mask_text
from vila_core.errors import NotFound
from vila_core.store import Store
from vila_ops.run_index import finite
from vila_ops.view import RunView, TaskView

LOG_BYTES = 64 * 1024

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def task_key(view: RunView, task: TaskView, name: str) -> str:
    """Return the store key of a file of a task's latest attempt."""
    return f"runs/{view.run_id}/tasks/{task.name}/{task.attempt:03d}/{name}"


def tail(store: Store, key: str, most: int) -> tuple[bytes, bool]:
    """Return at most `most` last bytes of a value, from the start of a line, and if it was cut.

    A missing value is empty. Memory stays flat whatever the size.
    """
    path = store.local_path(key)
    try:
        if path is not None:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - most))
                data, cut = file.read(most), size > most
        else:
            data, cut = _last(store.chunks(key), most)
    except (NotFound, FileNotFoundError):
        return b"", False
    return (data[data.find(b"\n") + 1 :], True) if cut else (data, False)


def _last(chunks: Iterator[bytes], most: int) -> tuple[bytes, bool]:
    kept: deque[bytes] = deque()
    held = 0
    cut = False
    for chunk in chunks:
        kept.append(chunk)
        held += len(chunk)
        while held - len(kept[0]) >= most:
            held -= len(kept.popleft())
            cut = True
    data = b"".join(kept)
    return data[-most:], cut or len(data) > most


def rows(data: bytes) -> Iterator[Mapping[str, object]]:
    """Yield the JSON objects of whole lines; what is none is left out."""
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def read_json(store: Store, key: str) -> object:
    """Return a JSON value, None where there is none or it is no JSON."""
    try:
        return json.loads(store.read(key))
    except (NotFound, ValueError, RecursionError):
        return None


def last_row(store: Store, view: RunView, task: TaskView) -> dict[str, float]:
    """Return the finite numbers of the newest row of metrics; empty when there is none."""
    data, _ = tail(store, task_key(view, task, "metrics.jsonl"), 16 * 1024)
    newest = deque(rows(data), maxlen=1)
    found = newest[0].items() if newest else ()
    return {name: number for name, value in found if (number := finite(value)) is not None}


def log_text(data: bytes) -> str:
    """Return a log as pages show it: secrets masked; no colours, no progress written over."""
    text = _ESCAPES.sub("", mask_text(data.decode("utf-8", "replace")))
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def log_end(store: Store, view: RunView, task: TaskView) -> tuple[str, bool]:
    """Return the end of a task's log as pages show it, and whether it was cut."""
    if not task.attempt:
        return "", False
    data, cut = tail(store, task_key(view, task, "log.txt"), LOG_BYTES)
    return log_text(data), cut
