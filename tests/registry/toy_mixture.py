"""A stage with a mixture, as trainings have one, and with a summary, as `evaluate` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vila_core.config import Frozen
from vila_core.types import QUIET, Reporter, StageResult


class Config(Frozen):
    mixture: dict[str, float] | None = None
    data: str | None = None
    summary: str = "{}"


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    folder = out_dir / "result"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(config.summary)
    (folder / "weights").write_text(f"{config.mixture} {config.data}")
    return StageResult({"result": folder}, {})
