"""torch's profiler over a range of steps, written as a trace for Perfetto or chrome://tracing."""

from __future__ import annotations

from pathlib import Path

import torch

from vila_core.errors import VilaError
from vila_core.train.engine import Engine
from vila_core.types import Reporter


class StepProfiler:
    """Profiles steps `first` to `last`, both included, of `steps`; None profiles nothing.

    Every rank writes `out_dir/profile/rank-N.json`; rank 0 attaches all of them to the report. What
    is computed stays the same to the bit; the steps take longer.
    """

    def __init__(
        self, steps: tuple[int, int] | None, engine: Engine, out_dir: Path, report: Reporter
    ) -> None:
        self._steps, self._engine, self._report = steps, engine, report
        self._folder = out_dir / "profile"
        self._profile: torch.profiler.profile | None = None

    def begin(self, step: int) -> None:
        """Take that `step` begins."""
        if self._steps is None or self._profile is not None:
            return
        first, last = self._steps
        if not first <= step <= last:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._engine.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(activities=activities, record_shapes=True)
        self._profile.start()
        self._engine.phases.annotate = True
        self._report.info(f"profiling steps {step} to {last}: their times are not to be trusted")

    def end(self, step: int) -> None:
        """Take that `step` has ended; after the last one the trace is written (collective)."""
        if self._profile is None or self._steps is None or step < self._steps[1]:
            return
        profile = self._profile
        self.close()
        path = self._folder / f"rank-{self._engine.rank}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(path))
        except OSError as error:
            raise VilaError(f"{path}: the trace of profile_steps is not written: {error}") from None
        for rank in self._engine.gather(self._engine.rank):  # all have written theirs
            name = f"rank-{rank}.json"
            if self._engine.rank == 0 and (self._folder / name).exists():
                self._report.attach(self._folder / name, f"profile/{name}")
        self._report.info(f"the trace of steps {self._steps[0]} to {step} is profile/{path.name}")

    def close(self) -> None:
        """Stop profiling."""
        if self._profile is not None:
            self._profile.stop()
            self._engine.phases.annotate = False
            self._profile = None
