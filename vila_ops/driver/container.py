"""One task in a container of its role's image: the same step as a subprocess, in a closed room.

The root file system is read-only. What a task may write is its scratch folder, the store where that
is a directory, the cache, and memory (/tmp, the home folder). It sees of this machine's files only
what its config names, at the same paths. Secrets go by environment, never by command line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila_core.config import Frozen
from vila_core.errors import UserError
from vila_core.store import ArtifactRef, Store
from vila_core.store.artifacts import cache_folder
from vila_ops.driver import guard
from vila_ops.driver.engine import (
    RUN_LABEL,
    TASK_LABEL,
    Engine,
    Image,
    extra_arguments,
)
from vila_ops.driver.graph import Graph, Task
from vila_ops.driver.images import TaskImages, check_images, named_image, role_of
from vila_ops.driver.local import Step, last_lines_of, prepare_step, task_environment

SHM = "8g"  # a limit, not a reservation; PyTorch's loaders and NCCL want more than 64 MiB
GPU_ROLES = ("train", "eval")
_PASSED = re.compile(
    r"(VILA|AWS|WANDB|HF|OMP|MKL|OPENBLAS|NCCL|GLOO|TORCH|PYTORCH|CUDA|TRITON|TOKENIZERS|DS)_\w+"
    r"|PYTHONHASHSEED|(SSL_CERT|REQUESTS_CA|CURL_CA)_\w+|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY"
)
_KEPT_BACK = ("VILA_ENGINE", "VILA_ENGINE_ARGS", "VILA_STORE", "VILA_CACHE")
_ADDRESS = re.compile(r"\b(https?|s3)://")


class Containers:
    """What the containers of one driver session share: engine, checked images, the driver's lock.

    Raises UserError as `Engine.find` and `check_images` do. What an earlier session of the run
    has left behind is removed.
    """

    def __init__(
        self, store: Store, run_id: str, graph: Graph, refs: Mapping[str, str], scratch: Path
    ) -> None:
        self.engine = Engine.find()
        self.images: TaskImages = check_images(self.engine, graph, refs)
        self._store, self._run_id, self._graph = store, run_id, graph
        self.engine.remove(*self.engine.containers(run_id))
        self._lock = scratch / "driver.lock"
        self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def start(
        self,
        task: Task,
        config: Frozen,
        arguments: Mapping[str, Any],
        inputs: Mapping[str, ArtifactRef],
        scratch: Path,
    ) -> ContainerTask:
        """Start a task."""
        image = self.images.of(self._graph, task)
        step = prepare_step(self._graph, task, arguments, inputs, scratch, "exec python3")
        network = _needs_network(arguments)
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"vila-{self._run_id}-{task.name}")
        room = Room(
            scratch=scratch,
            lock=self._lock,
            writable=_writable(self._store),
            readable=_readable(config, self._store, network),
            network=network,
            gpus=role_of(named_image(self._graph, task)) in GPU_ROLES,
        )
        labels = {RUN_LABEL: self._run_id, TASK_LABEL: task.name}
        return ContainerTask(
            self.engine, f"{name}-{secrets.token_hex(3)}", labels, image, room, step
        )

    def close(self) -> None:
        """Release the lock: what still runs ends itself."""
        os.close(self._held)


@dataclass(frozen=True)
class Room:
    """What a task may see and touch of this machine."""

    scratch: Path
    lock: Path
    writable: Sequence[Path]
    readable: Sequence[Path]
    network: bool
    gpus: bool

    def arguments(self, engine: Engine) -> list[str]:
        """Return the options of `run` that make the room. Raises UserError for a path with ','."""
        extra = extra_arguments()
        home = Path.home()
        found = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        if os.getuid() == 0:  # root may write what is not root's
            found += ["--cap-add=DAC_OVERRIDE", "--cap-add=FOWNER"]
        if Path("/sys/fs/selinux/enforce").exists():
            # The alternative, to relabel the user's store for containers, would outlive the run.
            found += ["--security-opt=label=disable"]
        if not any(text.startswith(("--network", "--net=")) for text in extra):
            found += [f"--network={'host' if self.network else 'none'}"]
        found += ["--uts=host", f"--shm-size={SHM}", *engine.user_arguments()]
        found += engine.gpu_arguments() if self.gpus else []
        for folder in {Path("/tmp"), home} - {Path("/")}:
            found.append(f"--tmpfs={folder}:rw,exec,mode=1777")
        for path in (self.scratch, *self.writable):
            found.append(_mount(path))
        for path in (self.lock, *self.readable):
            found.append(f"{_mount(path)},readonly")
        found += [f"--env={name}={value}" for name, value in self._environment(home).items()]
        found += [f"--env={name}" for name in _passed()]  # the value stays off the command line
        if any(Path.cwd() in path.parents for path in self.readable):
            found.append(f"--workdir={Path.cwd()}")  # so that relative paths mean the same
        return [*found, *extra]

    def _environment(self, home: Path) -> dict[str, str]:
        return {
            **{k: v for k, v in task_environment().items() if k not in os.environ},
            "HOME": str(home if home != Path("/") else "/tmp"),
            "USER": "vila",  # an id without a name in the image's /etc/passwd
            "LOGNAME": "vila",
            "TMPDIR": str(self.scratch),
            "PYTHONUNBUFFERED": "1",
            "VILA_CACHE": str(_cache()),
        }


class ContainerTask:
    """A running task. `poll` until not None, then `outputs`; `stop` ends it and all below it.

    A client of the engine stays attached to the container: it writes the output to a file and ends
    with the container. How the step ended is what the guard wrote down: no engine has to be asked.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        labels: Mapping[str, str],
        image: Image,
        room: Room,
        step: Step,
    ) -> None:
        self.name = name
        self.output_file = room.scratch / "output.txt"
        self._engine, self._image, self._step, self._scratch = engine, image, step, room.scratch
        self._end: Mapping[str, Any] | None = None
        program = room.scratch / "guard.py"
        shutil.copyfile(guard.__file__, program)
        command = [engine.command, "run", "--rm", "--pull=never", "--log-driver=none"]
        command += [f"--name={name}", *(f"--label={k}={v}" for k, v in labels.items())]
        command += [*room.arguments(engine), "--entrypoint=python3", image.id]
        command += ["-I", "-S", str(program), str(room.lock), str(room.scratch), *step.command]
        with self.output_file.open("wb") as output:
            self._client = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which ends the task
            )

    def poll(self) -> int | None:
        """Return the exit code of the step (128 + signal), or None while it runs."""
        code = self._client.poll()
        if code is None:
            return None
        if self._end is None:
            self._end = self._read_end(code if code >= 0 else 128 - code)
        return self._end["exit_code"]

    def outputs(self) -> dict[str, ArtifactRef]:
        """Return the artifacts of a task that succeeded."""
        return self._step.outputs()

    def last_lines(self, count: int = 20) -> str:
        """Return the end of what the container printed, or the engine about it."""
        return last_lines_of(self.output_file, count)

    def reason(self) -> str:
        """Return why the container ended, where its exit code does not say it; else ""."""
        end = self._end or {}
        if end.get("oom"):
            return (
                "the kernel killed it for want of memory, within the container's limit; fix: "
                "smaller packs or batches in this task's config, or a higher limit "
                "(VILA_ENGINE_ARGS=--memory=…), then 'vila resume' the run."
            )
        if end.get("engine") and end["exit_code"] in (125, 126, 127):
            told = str(self._engine.failure(self.last_lines()))
            return f"its container did not start: {told}"
        return ""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the step and all below it; before it has begun, end its start."""
        (self._scratch / guard.STOP).touch()
        if self._client.poll() is None and not self._engine.kill(self.name, how):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._client.pid, how)

    def clean(self) -> None:
        """Remove what is left of the container, and the scratch folder."""
        if self._client.poll() is None:
            os.killpg(self._client.pid, signal.SIGKILL)
            self._client.wait()
        if self._end is None or self._end.get("engine"):  # it did not end in the usual way
            self._engine.remove(self.name)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _read_end(self, code: int) -> Mapping[str, Any]:
        try:
            return json.loads((self._scratch / guard.ENDED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"exit_code": code, "engine": True}


def _mount(path: Path) -> str:
    if "," in str(path):
        raise UserError(f"{path}: a path with ',' can't be given to a container; fix: move it.")
    return f"--mount=type=bind,src={path},dst={path}"


def _cache() -> Path:
    return Path(os.path.abspath(cache_folder()))


def _writable(store: Store) -> list[Path]:
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    root = store.local_path("")
    return [cache] if root is None else [root, cache]


def _readable(config: Frozen, store: Store, network: bool) -> list[Path]:
    """Return the files and folders of this machine that a config or the environment names."""
    named = [Path(place) for place in config.outside() if isinstance(place, Path)]
    named += [path for text in _texts(config.model_dump(mode="json")) for path in _paths(text)]
    named += [path for name in _passed() for path in _paths(os.environ[name])]
    named += [Path.home() / ".aws" / "credentials"] if network else []
    taken = {Path("/"), Path("/tmp"), Path.home(), *_writable(store)}
    found = {Path(os.path.abspath(path.expanduser())) for path in named}
    return sorted(
        path
        for path in found - taken
        if path.exists() and not any(root in path.parents for root in _writable(store))
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _paths(text: str) -> list[Path]:
    """Return the path in a text that is one: absolute, `~/…`, file://, or a version at such."""
    place = text.removeprefix("dvc+").removeprefix("artifact+").removeprefix("file://")
    place = place.partition("#")[0] if place != text else place
    return [Path(place)] if place.startswith(("/", "~/")) and "\0" not in place else []


def _passed() -> list[str]:
    """Return the names of the variables that a task may need, those with secrets among them."""
    found = [name for name in os.environ if _PASSED.fullmatch(name) and name not in _KEPT_BACK]
    return sorted(found)


def _needs_network(arguments: Mapping[str, Any]) -> bool:
    """Whether a task's store, config or tracking names something beyond this machine's files."""
    text = " ".join(str(value) for value in arguments.values())
    return bool(_ADDRESS.search(text)) or '"wandb":"online"' in text.replace(" ", "")
