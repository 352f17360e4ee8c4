"""A container engine: podman or docker, through their command line, by what both understand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vila_core.errors import UserError, VilaError

KNOWN = ("podman", "docker")
CALL_SECONDS = 60.0
RUN_LABEL = "vila.dev/run"
TASK_LABEL = "vila.dev/task"
_NO_IMAGE = re.compile(r"no such image|image not known", re.I)
_NO_CONTAINER = re.compile(r"no (such )?container", re.I)
_NO_CDI = re.compile(r"unresolvable CDI devices|nvidia\.com/gpu", re.I)


@dataclass(frozen=True)
class Image:
    """An image on this machine: as it was asked for, its id, and the labels of its build."""

    ref: str
    id: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Engine:
    """How containers are started, ended and listed on this machine."""

    command: str
    kind: Literal["podman", "docker"]
    version: str
    rootless: bool

    @classmethod
    def find(cls) -> Engine:
        """Return the engine that VILA_ENGINE names, else podman, else docker.

        Raises UserError when there is none, or it does not work.
        """
        named = os.environ.get("VILA_ENGINE", "")
        command = next(filter(None, map(shutil.which, [named] if named else KNOWN)), None)
        if command is None:
            told = f"VILA_ENGINE={named}: there is no such command" if named else "there is none"
            raise UserError(
                f"a container engine is needed to run tasks in containers: {told}.\n"
                "  fix: install podman or docker, or run without: --runner subprocess"
            )
        told = _call([command, "--version"]).stdout.strip()
        found = re.search(r"\d+(\.\d+)+", told)
        version = found[0] if found else told
        if "podman" in told.lower():  # docker too may be podman by another name
            return cls(command, "podman", version, os.getuid() != 0)
        return cls(command, "docker", version, os.getuid() != 0 and _docker_is_rootless(command))

    def image(self, ref: str) -> Image:
        """Return an image that is on this machine. Raises UserError when it is not."""
        done = self.call("image", "inspect", ref)
        if done.returncode:
            if _NO_IMAGE.search(done.stderr):
                raise UserError(
                    f"there is no image {ref} on this machine.\n  fix: make images, or pull it "
                    f"({Path(self.command).name} pull {ref}), or name another one: --image ROLE=REF"
                )
            raise self.failure(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)[0]
        labels = (found.get("Config") or {}).get("Labels") or {}
        return Image(ref, found["Id"].removeprefix("sha256:"), labels)

    def user_arguments(self) -> list[str]:
        """Return what makes the files of a container belong to the user who runs it."""
        if self.kind == "podman" and self.rootless:
            return ["--userns=keep-id", f"--user={os.getuid()}:{os.getgid()}"]
        if self.rootless:
            return ["--user=0:0"]  # root in there is this user out here
        return [f"--user={os.getuid()}:{os.getgid()}"]

    def gpu_arguments(self) -> list[str]:
        """Return what passes all of the machine's GPUs on; nothing on one without."""
        if not Path("/dev/nvidiactl").exists():
            return []
        return ["--device=nvidia.com/gpu=all"] if self.kind == "podman" else ["--gpus=all"]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of the engine to its end. Raises VilaError when it hangs."""
        return _call([self.command, *arguments])

    def kill(self, name: str, how: int) -> bool:
        """Send a signal to a container's first process; False when there is no such container."""
        return not self.call("kill", f"--signal={how}", name).returncode

    def remove(self, *names: str) -> None:
        """End and remove containers; one that is gone already is fine. Raises VilaError."""
        if not names:
            return
        now = ["--time=0"] if self.kind == "podman" else []  # docker does not wait
        done = self.call("rm", "--force", *now, *names)
        if done.returncode and not _NO_CONTAINER.search(done.stderr):
            raise self.failure(done.stderr)

    def containers(self, run_id: str) -> list[str]:
        """Return the ids of all containers of a run, ended ones too. Raises VilaError."""
        done = self.call("ps", "--all", "--quiet", f"--filter=label={RUN_LABEL}={run_id}")
        if done.returncode:
            raise self.failure(done.stderr)
        return done.stdout.split()

    def failure(self, said: str) -> VilaError:
        """Return the error for what the engine said when it did not do as it was told."""
        name = Path(self.command).name
        lines = said.strip().splitlines() or ["it said nothing"]
        last = next((line for line in reversed(lines) if "rror" in line), lines[-1])
        if _NO_CDI.search(said):
            return UserError(
                f"{name} can't pass the GPUs on: {last}\n  fix: install the NVIDIA Container "
                "Toolkit; for podman: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            )
        other = KNOWN[1 - KNOWN.index(self.kind)]
        return UserError(
            f"{name} does not work on this machine: {last}\n  fix: see that '{name} info' works, "
            f"or use the other engine (VILA_ENGINE={other}), or --runner subprocess"
        )


def remove_containers(run_id: str) -> int:
    """Remove all containers of a run; return how many there were. Raises as `Engine.find` does."""
    engine = Engine.find()
    found = engine.containers(run_id)
    engine.remove(*found)
    return len(found)


def extra_arguments() -> list[str]:
    """Return what VILA_ENGINE_ARGS adds to every container, such as --memory=8g or a mount."""
    text = os.environ.get("VILA_ENGINE_ARGS", "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"VILA_ENGINE_ARGS={text}: can't be split into words: {error}.") from None


def _docker_is_rootless(command: str) -> bool:
    done = _call([command, "info", "--format", "{{.SecurityOptions}}"])
    return "rootless" in done.stdout


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS,
            check=False,
        )
    except OSError as error:
        raise UserError(f"{command[0]}: can't be run: {error.strerror or error}.") from None
    except subprocess.TimeoutExpired:
        raise VilaError(
            f"'{' '.join(command[:2])}' did not end within {CALL_SECONDS:.0f} s; "
            "fix: see whether the container engine's service works."
        ) from None
