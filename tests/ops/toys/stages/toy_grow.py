"""Works in small steps, keeps its state in out_dir, and continues from there."""

import time
from collections.abc import Mapping
from pathlib import Path

from vila_core.config import Frozen
from vila_core.types import QUIET, Reporter, StageResult


class Config(Frozen):
    steps: int = 3
    seconds_per_step: float = 0.0
    lr: float = 0.1
    broken: bool = False


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    if config.broken:
        raise ValueError("the twin broke")
    numbers = [int(n) for n in (inputs["data"] / "numbers.txt").read_text().split()]
    state = out_dir / "state.txt"
    first = int(state.read_text()) if state.exists() else 0
    report.info(f"starting at step {first}")
    for step in range(first, config.steps):
        time.sleep(config.seconds_per_step)
        loss = config.lr / (1 + step)
        temporary = state.with_suffix(".new")
        temporary.write_text(str(step + 1))
        temporary.replace(state)
        report.metrics(step, {"loss": loss})
        report.progress(step + 1, config.steps, "steps", loss=loss)
    folder = out_dir / "model"
    folder.mkdir(exist_ok=True)
    (folder / "weights.txt").write_text(str(sum(numbers) * config.steps * config.lr))
    return StageResult(
        {"model": folder}, {"loss": config.lr / config.steps, "loss_first": config.lr}
    )
