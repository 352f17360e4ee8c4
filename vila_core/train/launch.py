"""More than one process for a stage, inside its task: torchrun, reports, errors and no orphans.

Light: imports no torch. The stage runs unchanged in every rank (`vila_core.train.ranks`).
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import json
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil

from vila_core import errors
from vila_core.errors import VilaError
from vila_core.train import ranks
from vila_core.types import QUIET, Mirror, Reporter, StageResult

_POLL_SECONDS = 0.2
_STOP_SECONDS = 5.0

RunT = TypeVar("RunT", bound=Callable[..., StageResult])


def in_processes(run: RunT) -> RunT:
    """Decorate a stage's `run`: with `config.train.processes` above 1 it runs in that many ranks.

    A process that is already one of several (WORLD_SIZE above 1: a rank of ours, or of a TrainJob)
    runs as it is. What a rank raises is raised here: the same error and message.
    """

    @functools.wraps(run)
    def launched(
        config: Any,
        inputs: Mapping[str, Path],
        out_dir: Path,
        report: Reporter = QUIET,
        mirror: Mirror | None = None,
    ) -> StageResult:
        if config.train.processes == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return run(config, inputs, out_dir, report, mirror)
        return _launch(run.__module__, config, inputs, out_dir, report, mirror)

    return cast("RunT", launched)


def _launch(
    stage: str,
    config: Any,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter,
    mirror: Mirror | None,
) -> StageResult:
    processes = config.train.processes
    call = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "inputs": {name: str(Path(path).resolve()) for name, path in inputs.items()},
        "out_dir": str(Path(out_dir).resolve()),
        "processes": processes,
        "pid": os.getpid(),
    }
    with tempfile.TemporaryDirectory(prefix="vila-ranks-") as name:
        folder = Path(name)
        (folder / ranks.CALL).write_text(json.dumps(call), encoding="utf-8")
        (folder / ranks.MIRROR).write_bytes(pickle.dumps(mirror))
        os.mkfifo(folder / ranks.REPORTS)
        # Open for writing too: it must neither wait for a writer nor end between two of them.
        pipe = os.open(folder / ranks.REPORTS, os.O_RDWR | os.O_NONBLOCK)
        report.info(f"starts {processes} processes")
        try:
            with _started(folder, config.train.threads) as process:
                _pass_on(pipe, process, report)
        finally:
            os.close(pipe)
        if process.returncode != 0 or not (folder / ranks.RESULT).exists():
            raise _failure(folder, processes, process.returncode)
        result = json.loads((folder / ranks.RESULT).read_text(encoding="utf-8"))
    outputs = {name: Path(path) for name, path in result["outputs"].items()}
    return StageResult(outputs, result["metrics"])


@contextlib.contextmanager
def _started(folder: Path, threads: int) -> Any:
    """Start torchrun; whatever happens inside, none of its processes is left at the end."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([root, path]) if path else root
    if os.path.exists("/sys/class/net/lo"):
        # All ranks are on this machine: no host name is looked up, no port opened beyond it.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    process = subprocess.Popen(
        [sys.executable, "-m", ranks.__name__, "torchrun", str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # it is stopped by this process, once, and not by Ctrl-C as well
    )
    try:
        yield process
    finally:
        _stop(process, folder)


def _pass_on(pipe: int, process: subprocess.Popen[bytes], report: Reporter) -> None:
    """Pass rank 0's reports to `report` until torchrun has ended."""
    left = b""
    while True:
        ended = process.poll() is not None  # asked first: what came before is read below
        while select.select([pipe], [], [], 0 if ended else _POLL_SECONDS)[0]:
            *lines, left = (left + os.read(pipe, 65536)).split(b"\n")
            for line in lines:
                method, args, values = json.loads(line)
                if method == "attach":
                    args = [Path(args[0]), args[1]]
                getattr(report, method)(*args, **values)
        if ended:
            return


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End torchrun and its ranks. A checkpoint that one is writing is waited for."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    if process.poll() is None:
        process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 4)
            if any(folder.glob(ranks.SAVING.format("*"))):
                deadline = time.monotonic() + _STOP_SECONDS
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.wait()


def _failure(folder: Path, processes: int, code: int) -> Exception:
    """Return the error that came first: what the other ranks say is its consequence."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("error-*.json")]
    first = min(found, key=lambda error: error["time"], default=None)
    kind = getattr(errors, first["kind"], None) if first else None
    if first and isinstance(kind, type) and issubclass(kind, VilaError):
        return kind(first["message"])
    silent = [
        number
        for number in range(processes)
        if not any((folder / name.format(number)).exists() for name in _MARKS)
    ]
    if len(silent) in range(1, processes) or first is None:
        which = ", ".join(map(str, silent)) or "none"
        return VilaError(
            f"a process of {processes} was killed (ranks that left no word: {which}; torchrun "
            f"ended with {code}). Fix: mostly this is memory: use smaller packs, "
            "activation_checkpointing or a higher zero_stage; a resumed run continues from the "
            "last checkpoint."
        )
    kind = getattr(builtins, first["kind"], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # UnicodeDecodeError and the like take more
            return kind(first["message"])
    return RuntimeError(f"{first['kind']}: {first['message']}")


_MARKS = ("done-{}", "stopped-{}", "error-{}.json")
