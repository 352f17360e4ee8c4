"""The commands of a page of the documentation, run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def commands(page: Path) -> list[str]:
    """Return the lines after `$` in a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]


def run_page(page: Path, env: Mapping[str, str], cwd: Path = ROOT) -> dict[str, str]:
    """Run all commands of a page, which are `vila`'s, in order; return what each printed."""
    return {command: run(command, env, cwd) for command in commands(page)}


def run(command: str, env: Mapping[str, str], cwd: Path = ROOT) -> str:
    """Run a `vila` command, which must succeed, of this checkout; return what it printed."""
    program, *arguments = shlex.split(command)
    assert program == "vila"
    done = subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
