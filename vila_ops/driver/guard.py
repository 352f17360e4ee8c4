"""The first process of a task's container: runs the step, and ends it when the driver is gone.

    python3 guard.py LOCK FOLDER COMMAND [ARGUMENT...]

A container outlives whoever started it, and a step in it can't see the driver: its process ids are
its own. It does share files with it. So the driver holds a lock on the file LOCK, which the kernel
releases when the driver dies, however it dies; this process asks for that lock again and again.

It also passes signals on, reaps what the step leaves behind, and writes FOLDER/ended.json, so that
no engine has to be asked how the step ended: `exit_code` as a shell would say it, and `oom`,
whether the kernel has killed a process of the container for want of memory. When it ends itself,
the kernel ends all that is left in the container. A file FOLDER/stop says that the driver's signal
may have come too early to be heard.

It runs in the image's Python, whatever that has installed: only the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

ENDED, STOP = "ended.json", "stop"
POLL_SECONDS = 0.5
GRACE_SECONDS = 3.0
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
COUNTERS = (
    Path("/sys/fs/cgroup/memory.events"),  # cgroup v2
    Path("/sys/fs/cgroup/memory/memory.oom_control"),  # v1
)


def main(lock: str, folder: str, *command: str) -> int:
    """Run the command to its end; return its exit code, 130 if it has to be killed."""
    place = Path(folder)
    # Blocked, they are kept for sigtimedwait; a first process would lose them otherwise.
    signals = {*PASSED_ON, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    if (place / STOP).exists():
        return _say(place, 130, oom=False)
    driver = os.open(lock, os.O_RDONLY)
    killed_before = oom_kills()
    child = os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigmask=())
    deadline: float | None = None
    while True:
        got = signal.sigtimedwait(signals, POLL_SECONDS)
        if got is not None and got.si_signo in PASSED_ON:
            _kill(child, got.si_signo)
        code = _reap(child)
        if code is not None:
            break
        if deadline is None and _released(driver):
            print(
                "the driver is gone, so this task ends (if it is not: its lock can't be seen from "
                "this container, as with an engine on another or a virtual machine)",
                file=sys.stderr,
                flush=True,
            )
            _kill(child, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
        elif deadline is not None and time.monotonic() > deadline:
            return 130
    return _say(place, code, oom=oom_kills() > killed_before)


def oom_kills() -> int:
    """Return how many processes of this container the kernel has killed for want of memory."""
    for path in COUNTERS:
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _say(place: Path, code: int, *, oom: bool) -> int:
    (place / ENDED).write_text(json.dumps({"exit_code": code, "oom": oom}))
    return code


def _reap(child: int) -> int | None:
    """Collect every process that has ended; return the exit code of `child` once it has."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = os.waitstatus_to_exitcode(status)
                code = found if found >= 0 else 128 - found
    return code


def _released(driver: int) -> bool:
    try:
        fcntl.flock(driver, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill(group: int, how: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
