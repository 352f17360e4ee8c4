"""One node of a task that trains on several.

    python -m components.runtime.nodes.entry STORE PLACE

The same on every node, whoever starts it (a process of the step, a pod of a TrainJob). Its place
among the others is in torchrun's variables: PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and
PET_MASTER_PORT. What to do is in the store, and so goes what it says and what comes of it
(`relay`). It has a work folder of its own below VILA_CACHE, and ends by itself when the step shows
no life any more.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from components.runtime.code import code_digest
from components.runtime.driver_watch import watch_driver
from components.runtime.failure import Failure, Stopped
from components.runtime.inputs import fetch_inputs
from components.runtime.log import TaskLog
from components.runtime.mirror import StoreMirror
from components.runtime.nodes.fleet import LEASE_SECONDS, PARENT
from components.runtime.nodes.relay import Outbox, node_folder, seconds_between
from components.runtime.signals import ignore_signals, stoppable
from components.runtime.sinks import finite
from vila_core.config import validate
from vila_core.errors import EXIT_FAILED, AlreadyExists, StoreError, UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.store import Store, open_store, publish
from vila_core.store.artifacts import cache_folder
from vila_core.train.launch import Node, RanksKilled, launch
from vila_core.types import QUIET

ORPHAN_SECONDS = 300.0
_TELLING = ("watchdog-rank-*.txt", "profile/rank-*.json")
# What ranks say when another one is gone; by itself it says nothing about the training.
_BROKEN = ("Dist", "gloo", "NCCL", "ncclRemoteError", "Connection closed by peer", "Broken pipe")


def main(uri: str, place: str) -> int:
    """Do this node's part; return the exit code."""
    store = open_store(uri)
    node = _placed(json.loads(store.read(f"{place}/call.json")))
    folder = node_folder(place, node.number)
    try:
        store.write(f"{folder}/began.json", dumps(_identity()).encode(), create_only=True)
    except AlreadyExists:
        print("this node began before: the step starts all of them again", file=sys.stderr)
        return EXIT_FAILED
    with tempfile.TemporaryDirectory(prefix="vila-node-") as name, stoppable():
        log = TaskLog(Path(name) / "log.txt", capture=True)
        outbox = Outbox(store, folder, Path(name) / "log.txt")
        try:
            if PARENT in os.environ:
                watch_driver(int(os.environ[PARENT]), lambda: None)
            _watch_lease(store, place)
            with _attached(outbox, store, node):
                _train(store, place, folder, node, outbox)
            code = 0
        except (Exception, Stopped) as error:
            failure = Failure.of(error, None)
            if failure.traceback:
                traceback.print_exc()
            _tell(store, folder, error, failure)
            code = failure.exit_code
        ignore_signals()
        log.close()
        with contextlib.suppress(StoreError):
            outbox.close()
        return code


def _placed(call: dict[str, Any]) -> Node:
    """Return where this node is among the others. Raises UserError for variables that lack."""
    try:
        return Node(
            number=int(os.environ["PET_NODE_RANK"]),
            nodes=int(os.environ["PET_NNODES"]),
            address=os.environ["PET_MASTER_ADDR"],
            port=int(os.environ["PET_MASTER_PORT"]),
            join_s=call["join_s"],
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{error}: torchrun's variables PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and "
            "PET_MASTER_PORT say which node this is; a TrainJob's torch runtime sets them."
        ) from None


def _identity() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}


def _train(store: Store, place: str, folder: str, node: Node, outbox: Outbox) -> None:
    call = json.loads(store.read(f"{place}/call.json"))
    here = code_digest(call["module"]).digest
    if here != call["code"]:
        raise UserError(
            f"node {node.number} has other code ({here[:12]}) than its step "
            f"({call['code'][:12]}).\n  fix: give the task and its nodes the same image."
        )
    module = importlib.import_module(call["module"])
    config = validate(module.Config, call["config"], where=f"task {call['task']}")
    if config.train.nodes != node.nodes:
        raise UserError(
            f"train.nodes is {config.train.nodes}, but PET_NNODES says {node.nodes} nodes."
        )
    config, inputs = fetch_inputs(store, config, call["inputs"])
    work = work_folder_of_node(call["key"], node.number)
    work.mkdir(parents=True, exist_ok=True)
    mirror = StoreMirror(store.uri, call["key"])
    report = QUIET if node.number else outbox
    result = launch(call["module"], config, inputs, work, report, mirror, node)
    found: dict[str, Any] = {}
    if result is not None:
        found = {
            "outputs": {
                name: publish(store, output, move=True).sha256
                for name, output in result.outputs.items()
            },
            "metrics": finite(result.metrics),
        }
    outbox.close()  # the step takes what was said before it takes the result
    store.write(f"{folder}/result.json", dumps(found).encode())
    shutil.rmtree(work, ignore_errors=True)


def work_folder_of_node(key: str, number: int) -> Path:
    """Return a node's own work folder: VILA_CACHE may be a volume that all nodes mount."""
    return cache_folder() / "work" / key / f"node-{number}"


def _tell(store: Store, folder: str, error: BaseException, failure: Failure) -> None:
    """Leave the error for the step, which decides by what all nodes leave."""
    kind, ours = type(error).__name__, isinstance(error, VilaError)
    text = f"{kind} {error}"
    lost = isinstance(error, RanksKilled | Stopped)
    lost |= not ours and any(word in text for word in _BROKEN)
    told = not lost and not failure.traceback  # a full disk has a message of its own too
    value = {
        "kind": kind if ours or not told else VilaError.__name__,
        "message": failure.message,
        "at": time.time(),
        "told": told,
        "lost": lost,
    }
    try:
        store.write(f"{folder}/error.json", dumps(value).encode())
    except StoreError as problem:
        print(f"error: {failure.message}\n(not in the store: {problem})", file=sys.stderr)


@contextlib.contextmanager
def _attached(outbox: Outbox, store: Store, node: Node) -> Any:
    """Send what the ranks of this node write about themselves (the first node's send their own)."""
    if node.number == 0:
        yield
        return
    end = threading.Event()
    sent: dict[Path, int] = {}

    def look() -> None:
        for pattern in _TELLING:
            for path in sorted((cache_folder() / "work").glob(f"*/node-{node.number}/{pattern}")):
                with contextlib.suppress(FileNotFoundError):
                    size = path.stat().st_size
                    if sent.get(path) != size:
                        sent[path] = size
                        folders = "profile/" if path.parent.name == "profile" else ""
                        outbox.attach(path, folders + path.name)

    def watch() -> None:
        while not end.wait(5 * seconds_between(store)):
            look()

    thread = threading.Thread(target=watch, daemon=True, name="vila-attach")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        look()


def _watch_lease(store: Store, place: str) -> None:
    """End this process when the step's sign of life stays the same for long.

    Counted is only time in which the store answers; and only this machine's clock.
    """

    def watch() -> None:
        last, since = None, time.monotonic()
        while True:
            time.sleep(LEASE_SECONDS)
            try:
                now = store.read(f"{place}/lease.json")
            except StoreError:
                last, since = None, time.monotonic()
                continue
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > ORPHAN_SECONDS:
                print("the step shows no life any more: this node ends", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True, name="vila-lease").start()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
