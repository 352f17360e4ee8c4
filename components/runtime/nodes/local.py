"""Nodes as processes of this machine that share as little as machines do: a rehearsal."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from components.runtime.nodes.fleet import PARENT, State
from vila_core.errors import UserError

_STOP_SECONDS = 120.0  # a node first lets a checkpoint that is being written be finished
_POLL_SECONDS = 0.1


class LocalNodes:
    """`nodes` processes that meet on 127.0.0.1, each with a VILA_CACHE of its own below `work`.

    With GPUs each node sees `processes` of them, its own; UserError if there aren't enough.
    """

    wait_s = 600.0
    pause_s = 0.5

    def __init__(self, store: str, nodes: int, processes: int, device: str, work: Path) -> None:
        self._store, self._work = store, work
        self._gpus = _share_gpus(nodes, processes) if device != "cpu" else [""] * nodes
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, number: int, place: str) -> str:
        """See `Fleet`."""
        port = _free_port()
        for rank, gpus in enumerate(self._gpus):
            environment = {
                **os.environ,
                "PET_NNODES": str(len(self._gpus)),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                "VILA_CACHE": str(self._work / "nodes" / str(rank)),
                PARENT: str(os.getpid()),
            }
            root = str(Path(__file__).resolve().parents[2])
            path = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join([root, path]) if path else root
            if gpus:
                environment["CUDA_VISIBLE_DEVICES"] = gpus
            # Its own output goes to the step through the store; only what precedes that is lost.
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "components.runtime.nodes.entry", self._store, place],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        return "processes " + ", ".join(str(process.pid) for process in self._processes)

    def state(self) -> State:
        """See `Fleet`."""
        codes = [process.poll() for process in self._processes]
        lost = {number: _how(code) for number, code in enumerate(codes) if code}
        if lost:
            return State("lost", "a node ended", lost)
        return State("ended" if all(code == 0 for code in codes) else "running")

    def last_words(self, number: int) -> list[str]:
        """See `Fleet`; what a node prints before it has a log is in the step's own."""
        return []

    def stop(self) -> None:
        """See `Fleet`."""
        children: list[psutil.Process] = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                children += psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while any(process.poll() is None for process in self._processes):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []


def _how(code: int) -> str:
    if code > 0:
        return f"its process ended with {code}"
    return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _share_gpus(nodes: int, processes: int) -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES of each node, empty where there is no GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        there = [path.name[len("nvidia") :] for path in Path("/dev").glob("nvidia[0-9]*")]
        there.sort(key=int)
    else:
        there = [name for name in visible.split(",") if name not in ("", "-1")]
    if not there:
        return [""] * nodes
    if len(there) < nodes * processes:
        raise UserError(
            f"train.nodes {nodes} x train.processes {processes} on this machine need a GPU each, "
            f"but there are {len(there)}; ask for fewer, set device: cpu, or run on a cluster."
        )
    return [",".join(there[n * processes : (n + 1) * processes]) for n in range(nodes)]
