"""The processes of `vila_core.train.launch`: torchrun, and one per rank that runs the stage.

`python -m vila_core.train.ranks torchrun FOLDER` is torchrun itself, quiet: what a rank has to say
it says to the task. FOLDER holds what to run (`call.json`, `mirror.pickle`). Each rank leaves
`done-RANK`, `stopped-RANK` or `error-RANK.json` there; rank 0 also writes `result.json`, and
reports through the pipe `reports`. While `saving-RANK` is there, a rank that was told to stop
finishes the checkpoint that it is writing.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from vila_core.config import validate
from vila_core.errors import VilaError
from vila_core.types import QUIET, StageResult

CALL, MIRROR = "call.json", "mirror.pickle"
RESULT, REPORTS = "result.json", "reports"
_WATCH_SECONDS = 0.5
SAVING = "saving-{}"
_SHUTDOWN_SECONDS = 600  # ranks end at once, but for a checkpoint in flight


def torchrun(folder: Path) -> int:
    """Start the ranks by torchrun; return 0 if all of them succeed."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    call = _read(folder)
    _end_with(call["pid"])
    arguments = ["--nproc_per_node", str(call["processes"])]
    arguments += ["--shutdown_timeout", str(_SHUTDOWN_SECONDS), *_meeting(call["node"])]
    try:
        main([*arguments, "-m", _NAME, "rank", str(folder)])
    except ChildFailedError:  # its report tells exit codes; the rank's own file tells why
        return 1
    except DistError as error:  # the nodes have not met, or have lost each other
        what = {"kind": type(error).__name__, "message": str(error), "time": time.time()}
        _write(folder / "error-torchrun.json", what)
        return 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


def _meeting(node: Mapping[str, Any] | None) -> list[str]:
    """Return torchrun's arguments that say where the nodes meet."""
    if node is None:
        return ["--standalone"]
    place = {
        "--nnodes": node["nodes"],
        "--node_rank": node["number"],
        "--master_addr": node["address"],
        "--master_port": node["port"],
        "--rdzv_conf": f"timeout={node['join_s']}",
    }
    return [str(part) for pair in place.items() for part in pair]


def rank(folder: Path) -> int:
    """Run the stage as one rank. Leaves a result, or one error of this rank."""
    call, number = _read(folder), int(os.environ["RANK"])
    _end_with(call["pid"], os.getppid())
    stopping = _stop_at_once(folder, number)
    try:
        stage = importlib.import_module(call["stage"])
        config = validate(stage.Config, call["config"], where=call["stage"])
        inputs = {name: Path(path) for name, path in call["inputs"].items()}
        out_dir = Path(call["out_dir"])
        mirror = pickle.loads((folder / MIRROR).read_bytes())  # the task's own, in a private folder
        with (folder / REPORTS).open("w", encoding="utf-8") as pipe:
            report = QUIET if number else _PipeReporter(pipe)
            result: StageResult = stage.run(config, inputs, out_dir, report, mirror)
        if number == 0:
            outputs = {name: str(path) for name, path in result.outputs.items()}
            _write(folder / RESULT, {"outputs": outputs, "metrics": dict(result.metrics)})
        (folder / f"done-{number}").touch()
    except BaseException as error:
        if stopping.is_set():  # ranks that ended before this one are no failure
            threading.Event().wait()  # for the thread that ends this process
        _write(
            folder / f"error-{number}.json",
            {"kind": type(error).__name__, "message": str(error), "time": time.time()},
        )
        if not isinstance(error, VilaError):
            traceback.print_exc()
        return 1
    return 0


class _PipeReporter:
    """A Reporter at the other end of a pipe: one JSON line per call."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def progress(self, done: int, total: int, unit: str, **values: float) -> None:
        """See `Reporter`."""
        self._send("progress", [done, total, unit], values)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """See `Reporter`."""
        self._send("metrics", [step, dict(values)], {})

    def info(self, text: str) -> None:
        """See `Reporter`."""
        self._send("info", [text], {})

    def attach(self, path: Path, name: str) -> None:
        """See `Reporter`; the task, which reads the file, is on the same machine."""
        self._send("attach", [str(path.resolve()), name], {})

    def _send(self, method: str, args: list[Any], values: Mapping[str, Any]) -> None:
        line = json.dumps([method, args, dict(values)])
        with self._lock:
            self._pipe.write(line + "\n")
            self._pipe.flush()


def _end_with(*pids: int) -> None:
    """End this process and its children as soon as one of `pids` is gone.

    torchrun puts each rank into a session of its own, which no signal to the task's group reaches.
    """
    try:
        watched = [psutil.Process(pid) for pid in pids]
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while all(map(_runs, watched)):
            time.sleep(_WATCH_SECONDS)
        _exit_with_children(1)

    threading.Thread(target=watch, daemon=True, name="vila-parent-watch").start()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _stop_at_once(folder: Path, number: int) -> threading.Event:
    """End this process at SIGTERM or SIGINT even while it waits in a collective for other ranks.

    A Python handler runs only when the main thread is back from C; the descriptor is written to at
    once, and a thread reads it. A checkpoint that is being written in the background is finished
    first, as it would be in a single process. The event returned says that the end has begun.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, lambda *_: None)
    stopping = threading.Event()

    def watch() -> None:
        while reading.recv(1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        stopping.set()
        (folder / f"stopped-{number}").touch()
        _finish_saving(folder / SAVING.format(number))
        writing.close()
        _exit_with_children(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="vila-stop").start()
    return stopping


def _finish_saving(mark: Path) -> None:
    background = sys.modules.get("vila_core.train.background")  # not there: nothing was saved yet
    if background is not None and background.going_on():
        mark.touch()
        background.settle()
        mark.unlink()


def _exit_with_children(code: int) -> None:
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(code)


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CALL).read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


_NAME = "vila_core.train.ranks"  # as `python -m` names it; `__name__` is "__main__" there

if __name__ == "__main__":
    sys.exit({"torchrun": torchrun, "rank": rank}[sys.argv[1]](Path(sys.argv[2])))
