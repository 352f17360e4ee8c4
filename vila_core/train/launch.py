"""More than one process for a stage, on one machine: torchrun, reports, errors and no orphans.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil

from vila_core import errors
from vila_core.errors import UserError, VilaError
from vila_core.train import ranks
from vila_core.types import QUIET, Mirror, Reporter, StageResult

_POLL_SECONDS = 0.2
_STOP_SECONDS = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

RunT = TypeVar("RunT", bound=Callable[..., StageResult])


class RanksKilled(VilaError):
    """A process of this machine ended without a word: killed, mostly for its memory."""


@dataclass(frozen=True)
class Node:
    """One of the machines that train together. Number 0 reports, and has the result.

    They meet at `address`:`port`, which is number 0's, and wait there `join_s` seconds for others.
    """

    number: int
    nodes: int
    address: str
    port: int
    join_s: int = 600


def in_processes(run: RunT) -> RunT:
    """Decorate a stage's `run`: with `config.train.processes` above 1 it runs in that many ranks.

    A process that is already one of several (WORLD_SIZE above 1: a rank of ours, or of a TrainJob)
    runs as it is. What a rank raises is raised here: the same error and message. Nodes are not
    started here (they are the task's: `components.runtime.nodes`): UserError.
    """

    @functools.wraps(run)
    def launched(
        config: Any,
        inputs: Mapping[str, Path],
        out_dir: Path,
        report: Reporter = QUIET,
        mirror: Mirror | None = None,
    ) -> StageResult:
        train = config.train
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or train.ranks == 1:
            return run(config, inputs, out_dir, report, mirror)
        if train.nodes > 1:
            raise UserError(
                f"train.nodes {train.nodes}: only the tasks of a run get nodes (vila run); a stage "
                f"that is called has this machine.\n  fix: nodes: 1, processes: {train.ranks}"
            )
        result = launch(run.__module__, config, inputs, out_dir, report, mirror)
        assert result is not None
        return result

    return cast("RunT", launched)


def launch(
    stage: str,
    config: Any,
    inputs: Mapping[str, Path],
    out_dir: Path,
    report: Reporter,
    mirror: Mirror | None,
    node: Node | None = None,
) -> StageResult | None:
    """Run a stage (its module's name) in `config.train.processes` ranks on this machine.

    With `node` these are some of the ranks, and on any node but the first the result is None, and
    nothing is reported. Raises what the first rank that failed has raised, and RanksKilled.
    """
    processes = config.train.processes
    call = {
        "stage": stage,
        "config": config.model_dump(mode="json"),
        "inputs": {name: str(Path(path).resolve()) for name, path in inputs.items()},
        "out_dir": str(Path(out_dir).resolve()),
        "processes": processes,
        "node": None if node is None else asdict(node),
        "pid": os.getpid(),
    }
    first = 0 if node is None else node.number * processes
    with tempfile.TemporaryDirectory(prefix="vila-ranks-") as name:
        folder = Path(name)
        (folder / ranks.CALL).write_text(json.dumps(call), encoding="utf-8")
        (folder / ranks.MIRROR).write_bytes(pickle.dumps(mirror))
        os.mkfifo(folder / ranks.REPORTS)
        # Open for writing too: it must neither wait for a writer nor end between two of them.
        pipe = os.open(folder / ranks.REPORTS, os.O_RDWR | os.O_NONBLOCK)
        each = "" if node is None else f" on each of {node.nodes} nodes"
        report.info(f"starts {processes} {'process' if processes == 1 else 'processes'}{each}")
        alone = node is None or node.address in _LOOPBACK
        try:
            with _started(folder, config.train.threads, alone) as process:
                _pass_on(pipe, process, report)
        finally:
            os.close(pipe)
        if process.returncode != 0 or not (first or (folder / ranks.RESULT).exists()):
            raise _failure(folder, range(first, first + processes), process.returncode)
        if first:
            return None
        result = json.loads((folder / ranks.RESULT).read_text(encoding="utf-8"))
    outputs = {name: Path(path) for name, path in result["outputs"].items()}
    return StageResult(outputs, result["metrics"])


@contextlib.contextmanager
def _started(folder: Path, threads: int, alone: bool) -> Any:
    """Start torchrun; whatever happens inside, none of its processes is left at the end."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([root, path]) if path else root
    if alone and os.path.exists("/sys/class/net/lo"):
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


def _failure(folder: Path, numbers: range, code: int) -> Exception:
    """Return the error that came first: what the other ranks say is its consequence."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("error-*.json")]
    first = min(found, key=lambda error: error["time"], default=None)
    silent = [
        number
        for number in numbers
        if not any((folder / name.format(number)).exists() for name in _MARKS)
    ]
    told = first is not None and isinstance(error_of(first["kind"], ""), VilaError)
    if first is None or (not told and len(silent) in range(1, len(numbers))):
        which = ", ".join(map(str, silent)) or "none"
        return RanksKilled(
            f"a process of {len(numbers)} was killed (ranks that left no word: {which}; torchrun "
            f"ended with {code}). Fix: mostly this is memory: use smaller packs, "
            "activation_checkpointing or a higher zero_stage; a resumed run continues from the "
            "last checkpoint."
        )
    return error_of(first["kind"], first["message"])


def error_of(kind: str, message: str) -> Exception:
    """Return the error that another process has raised: of the same class where that is known."""
    ours = RanksKilled if kind == RanksKilled.__name__ else getattr(errors, kind, None)
    if isinstance(ours, type) and issubclass(ours, VilaError):
        return ours(message)
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception):
        with contextlib.suppress(TypeError):  # UnicodeDecodeError and the like take more
            return known(message)
    return RuntimeError(f"{kind}: {message}")


_MARKS = ("done-{}", "stopped-{}", "error-{}.json")
