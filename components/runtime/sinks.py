"""Where metrics go: metrics.jsonl always, W&B beside it. W&B can neither slow nor fail a task."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from components.runtime.context import Tracking
from components.runtime.secrets import mask
from vila_core.jsonio import digest, dumps

_FINISH_SECONDS = {"offline": 30.0, "online": 120.0}


class Sink(Protocol):
    """Takes the numbers of one task."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take one row."""
        ...

    def finish(self, metrics: Mapping[str, float], exit_code: int) -> None:
        """Take the final metrics and write everything out."""
        ...


class MetricsFile:
    """The log of record: a JSON line per row, `{"step", "time", …}`; what is not finite is null."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row. Raises OSError when the disk is full: numbers are not lost silently."""
        row = {**finite(values), "step": step, "time": round(time.time(), 3)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(dumps(row) + "\n")

    def finish(self, metrics: Mapping[str, float], exit_code: int) -> None:
        """Nothing to do: final metrics are in finished.json."""


class WandbSink:
    """The same numbers in W&B, from a background thread: nobody waits for `wandb.init`."""

    def __init__(
        self,
        tracking: Tracking,
        *,
        run_id: str,
        task: str,
        config: Mapping[str, Any],
        folder: Path,
        warn: Callable[[str], None],
    ) -> None:
        self._mode = tracking.wandb
        self._warn = warn
        self._rows: queue.SimpleQueue[tuple[int | None, Mapping[str, Any]]] = queue.SimpleQueue()
        self._exit_code = 0
        self._settings = {
            "project": tracking.project,
            "group": run_id,
            "job_type": task,
            "name": f"{run_id}/{task}",
            "id": digest([run_id, task])[:16],  # stable: a later attempt continues the same run
            "resume": "allow" if tracking.wandb == "online" else None,
            "mode": tracking.wandb,
            "dir": str(folder),
            "config": mask(config),
        }
        self._thread = threading.Thread(target=self._work, daemon=True, name="vila-wandb")
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue one row."""
        self._rows.put((step, finite(values)))

    def finish(self, metrics: Mapping[str, float], exit_code: int) -> None:
        """Queue the final metrics and wait for W&B, within limits."""
        self._exit_code = exit_code
        self._rows.put((None, finite(metrics)))
        self._thread.join(_FINISH_SECONDS[self._mode])
        if self._thread.is_alive():
            self._warn("W&B did not end in time; its copy of the metrics may be incomplete")

    def _work(self) -> None:
        try:
            import wandb

            settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
            run = wandb.init(**self._settings, settings=settings)
            try:
                while True:
                    step, values = self._rows.get()
                    if step is None:
                        run.summary.update(dict(values))
                        break
                    run.log(dict(values), step=step)
            finally:
                run.finish(exit_code=self._exit_code)
        except BaseException as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            self._warn(f"W&B is not used for this task: {reason[0]} (metrics.jsonl is complete)")


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values as JSON numbers; NaN and infinities become null."""
    result: dict[str, float | None] = {}
    for name, value in values.items():
        number = None
        with contextlib.suppress(TypeError, ValueError):
            number = value if isinstance(value, int) else float(value)
        good = number is not None and (isinstance(number, int) or math.isfinite(number))
        result[name] = number if good else None
    return result
