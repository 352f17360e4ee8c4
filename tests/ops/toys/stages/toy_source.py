"""Writes numbers; can fail in all the ways in which a stage can."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vila_core.config import Frozen
from vila_core.errors import UserError
from vila_core.types import QUIET, Reporter, StageResult


class Config(Frozen):
    count: int = 3
    seconds: float = 0.0
    fail: Literal["no", "user", "crash", "memory", "greedy", "killed", "import"] = "no"


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    report.info(f"counting to {config.count}")
    time.sleep(config.seconds)
    if config.fail == "user":
        raise UserError("corpora/toy.jsonl:3: the line is not JSON; fix or remove it.")
    if config.fail == "crash":
        raise ValueError("the toy broke")
    if config.fail == "memory":
        raise MemoryError
    if config.fail == "greedy":
        bytearray(1 << 28)
    if config.fail == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    folder = out_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.txt").write_text("\n".join(str(n) for n in range(config.count)))
    return StageResult({"data": folder}, {"count": float(config.count)})
