"""A small stage that works, resumes, and fails in all the ways in which a stage can."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from vila_core.config import Frozen
from vila_core.errors import UserError
from vila_core.types import QUIET, Reporter, StageResult


class Config(Frozen):
    text: str = "hello"
    steps: int = 1
    seconds: float = 0.0
    fail: str = "no"
    child: bool = False
    attach: str = ""


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    if config.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
        (out_dir / "child.pid").write_text(str(child.pid))
    state = out_dir / "state"
    first = int(state.read_text()) if state.exists() else 0
    report.info(f"first step {first}")
    for step in range(first, config.steps):
        report.metrics(step, {"loss": 1 / (step + 1), "bad": float("nan")})
        report.progress(step + 1, config.steps, "steps", loss=1 / (step + 1))
        state.write_text(str(step + 1))
        time.sleep(config.seconds)
    if config.attach:
        report.attach(state, config.attach)
    _fail(config.fail, out_dir)
    folder = out_dir / "result"
    folder.mkdir(exist_ok=True)
    given = "".join((path / "text.txt").read_text() for path in inputs.values())
    (folder / "text.txt").write_text(given + config.text)
    return StageResult({"result": folder}, {"length": float(len(config.text)), "nan": float("nan")})


def _fail(how: str, out_dir: Path) -> None:
    if how == "user":
        raise UserError("corpus.jsonl:3: the line is not JSON; fix or remove it.")
    if how == "crash":
        raise ValueError("the toy broke")
    if how == "memory":
        raise MemoryError
    if how == "torch-memory":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 PB")
    if how == "big-file":
        (out_dir / "big").write_bytes(bytes(1 << 22))
    if how == "exit":
        sys.exit(3)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        print("last words", flush=True)
        time.sleep(0.2)
        ctypes.string_at(0)
    if how == "secret":
        print("the key is", os.environ["TOY_API_KEY"], flush=True)
        os.system("echo from a child: $TOY_API_KEY")
        raise RuntimeError(f"refused {os.environ['TOY_API_KEY']}")
    if how == "wrong-output":
        raise_wrong(out_dir)


def raise_wrong(out_dir: Path) -> None:
    (out_dir / "result").symlink_to("/nowhere")
