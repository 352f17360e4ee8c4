"""A mirror's delivery in a process of its own: it can be ended, and what it loaded goes with it.

stdin: what to deliver, as JSON. stdout: one line of JSON, the answer or the error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from components.registry import HistoryEntry, Registry
from components.runtime.secrets import mask_text
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store
from vila_ops.registry.delivering import Undelivered
from vila_ops.registry.mirror_settings import HuggingFace, Wandb


def in_child(
    store: Store, target: Wandb | HuggingFace, name: str, model: str, entry: HistoryEntry
) -> Mapping[str, Any]:
    """Deliver an entry to a mirror in a child process; return the mirror's answer.

    Raises Undelivered for what went wrong there, also where it lasted too long.
    """
    request = {
        "store": str(store.uri),
        "kind": type(target).__name__,
        "target": target.model_dump(mode="json"),
        "name": name,
        "model": model,
        "seq": entry.seq,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(dumps(request).encode(), timeout=target.timeout_s)
    except subprocess.TimeoutExpired:
        raise Undelivered(f"it was not done within {target.timeout_s:g} s") from None
    finally:
        _end(process)
    return _answer(out, errors, process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child and what it started; W&B has a process of its own."""
    import contextlib
    import signal

    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def _answer(out: bytes, errors: bytes, code: int) -> Mapping[str, Any]:
    try:
        value = json.loads(out)
    except ValueError:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        why = mask_text(last[0]) if last else "without a word"
        raise Undelivered(f"its process ended with {code}: {why}") from None
    if "error" in value:
        raise Undelivered(value["error"], value.get("wait_s"))
    return value["answer"]


def main() -> None:
    """Do what stdin says."""
    request = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)  # libraries print what they like
        try:
            value: dict[str, Any] = {"answer": dict(_deliver(request))}
        except Exception as error:
            text = mask_text(f"{error}" or type(error).__name__)
            value = {"error": text, "wait_s": getattr(error, "wait_s", None)}
        answer.write(dumps(value) + "\n")


def _deliver(request: Mapping[str, Any]) -> Mapping[str, Any]:
    store = open_store(request["store"])
    model, name = request["model"], request["name"]
    entry = next(e for e in Registry(store).history(model) if e.seq == request["seq"])
    if request["kind"] == Wandb.__name__:
        from vila_ops.registry import wandb_mirror

        target = Wandb.model_validate(request["target"])
        return wandb_mirror.mirror(store, target, name, model, entry)
    from vila_ops.registry import hub_mirror

    hub = HuggingFace.model_validate(request["target"])
    return hub_mirror.mirror(store, hub, name, model, entry)


if __name__ == "__main__":
    main()
