"""The images that `make images` built, and containers of them that can do as little as possible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROLES = ("data", "train", "eval", "ops")
os.environ.setdefault("CONTAINERS_CONF", str(ROOT / "images" / "containers.conf"))


@dataclass(frozen=True)
class Engine:
    """Podman or docker with this project's settings."""

    name: str

    def call(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.name, *arguments], capture_output=True, text=True, check=False, timeout=300
        )
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    def has(self, role: str) -> bool:
        return self.call("image", "inspect", image(role), code=None).returncode == 0

    def inspect(self, role: str) -> dict[str, Any]:
        return json.loads(self.call("image", "inspect", image(role)).stdout)[0]

    def run(
        self,
        role: str,
        *command: str,
        mounts: Mapping[Path, str] | None = None,
        code: int | None = 0,
        options: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a restricted pod would: no root, no rights, no network, no writes."""
        volumes = [f"--volume={path}:{place}" for path, place in (mounts or {}).items()]
        return self.call(
            "run",
            "--rm",
            "--read-only",
            "--user=10001:10001",
            "--network=none",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--tmpfs=/tmp:rw,mode=1777",
            "--tmpfs=/var/cache/vila:rw,mode=1777",
            *volumes,
            *options,
            image(role),
            *command,
            code=code,
        )


def image(role: str) -> str:
    return f"vila-platform/{role}:latest"


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine that has the images. Without: skipped, or failed where CI says they must be."""
    why = "neither podman nor docker is installed"
    for name in ("podman", "docker"):
        if shutil.which(name) is None:
            continue
        found = Engine(name)
        missing = [role for role in ROLES if not found.has(role)]
        if not missing:
            return found
        why = f"{name} has no image of {', '.join(missing)}; run make images"
    if os.environ.get("VILA_TEST_IMAGES") == "required":
        pytest.fail(why)
    pytest.skip(why)
