"""Records of an evaluation as they are given: a line per answer, and accuracies from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vila_core.config import Frozen
from vila_core.jsonio import dumps
from vila_core.types import QUIET, Reporter, StageResult


class Config(Frozen):
    rows: tuple[dict[str, Any], ...] = ()
    broken: bool = False


def run(
    config: Config, inputs: Mapping[str, Path], out_dir: Path, report: Reporter = QUIET
) -> StageResult:
    folder = out_dir / "results"
    folder.mkdir(exist_ok=True)
    lines = "".join(dumps(row) + "\n" for row in config.rows) + ("{}\n" if config.broken else "")
    (folder / "records.jsonl").write_text(lines)
    groups: dict[str, list[float]] = {}
    for row in config.rows:
        if row["condition"] == "seen" and row["score"] is not None:
            groups.setdefault(f"{row['task']}/accuracy@{row['shots']}", []).append(row["score"])
    metrics = {key: sum(scores) / len(scores) for key, scores in groups.items()}
    return StageResult({"results": folder}, metrics)
