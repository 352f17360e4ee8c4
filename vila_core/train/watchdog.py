"""A thread that speaks up when no step finishes: what this rank does, with which samples.

It never ends anything. What it needs is set by assignments in the training's own thread, so that
a step costs nothing more.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vila_core.train.collectives import Collective, last_collective
from vila_core.train.phases import Phases
from vila_core.types import Batch, Reporter

_SAMPLES_SHOWN = 200
_STATE_SHOWN = 2000  # characters
_LOOK_AGAIN_S = 5.0  # for the files of other ranks, while it hangs

_HINTS = {
    "data": "the source has given no micro-batch. Look at the stacks below and at the processes "
    "that read ahead (num_workers): a full or slow disk, a store that doesn't answer, one huge "
    "sample; the source's state tells where it stands.",
    "forward": "the model is computing. Look at the samples: one far larger than the others? On a "
    "GPU also at its clock and its errors (nvidia-smi); with ZeRO-3 this rank may wait for others.",
    "backward": "the gradient is being computed, and with several ranks summed.",
    "optimiser": "weights are being updated, and with several ranks exchanged.",
    "checkpoint": "a checkpoint is being copied or written. Look at the free space and the speed "
    "of the disk that holds it.",
    "collective": "this rank waits for the counts of the others.",
}
_COMPARE = (
    "With several ranks, compare the files of all of them: the rank whose last collective has the "
    "LOWEST number, or that is in another phase, is the one that the others wait for."
)


class Watchdog:
    """Tells, every `seconds` in which no step finishes, what this rank is doing (0: never).

    The whole story goes to `out_dir/watchdog-rank-N.txt`, one line to stderr; rank 0 also writes it
    to the report, and attaches the files of all ranks it finds.
    """

    def __init__(
        self,
        seconds: float,
        phases: Phases,
        out_dir: Path,
        report: Reporter,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.batches: Sequence[Batch] = ()
        self.micro_batch = 0  # from 1; 0: between micro-batches
        self._seconds, self._phases, self._report = seconds, phases, report
        self._rank, self._world, self._out_dir = rank, world, out_dir
        self._path = out_dir / f"watchdog-rank-{rank}.txt"
        self._step, self._source_state = 0, {}
        self._beat = time.monotonic()
        self._told = 0  # times since the last step
        self._attached: dict[Path, int] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._beat = time.monotonic()
        if self._seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def next_step(self, step: int, source_state: Mapping[str, Any]) -> None:
        """Take that `step` begins, at `source_state`: the one before it has finished."""
        waited, told = time.monotonic() - self._beat, self._told
        self._step, self._source_state = step, dict(source_state)
        self.batches, self.micro_batch = (), 0
        self._beat, self._told = time.monotonic(), 0
        if told:
            self._report.info(f"watchdog: step {step - 1} has finished, after {waited:.0f} s")

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            if self._path.exists():
                self._attach()

    def _watch(self) -> None:
        while not self._stop.wait(self._pause()):
            if time.monotonic() - self._beat >= self._seconds * (self._told + 1):
                self._told += 1
                self._tell()
            elif self._told:
                self._attach()

    def _pause(self) -> float:
        due = self._beat + self._seconds * (self._told + 1) - time.monotonic()
        return max(min(due, _LOOK_AGAIN_S) if self._told else due, 0.001)

    def _tell(self) -> None:
        lines = list(self._lines())
        try:
            self._out_dir.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n".join([*lines, "stacks of all threads:", ""]))
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
        except OSError as error:
            lines.append(f"(not written to {self._path}: {error})")
        where = f"the stacks are in {self._path.name}"
        print(f"{lines[0]} {lines[1]}; {where}", file=sys.stderr, flush=True)
        for line in [*lines, where]:
            self._report.info(f"watchdog: {line}")
        self._attach()

    def _lines(self) -> Iterator[str]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        waited = time.monotonic() - self._beat
        phases = self._phases.current
        inside = time.perf_counter() - self._phases.since
        collective = last_collective() if self._world > 1 else None
        yield (
            f"{now} rank {self._rank} of {self._world}: no step has finished for {waited:.0f} s "
            f"(train.watchdog_s: {self._seconds:g}). Nothing is ended."
        )
        where = " > ".join(phases) or "between phases"
        yield f"step {self._step}, phase {where}, for {inside:.0f} s"
        if self._world > 1:
            yield f"last collective: {collective or 'none so far'}"
        yield f"what to look for: {_hint(phases, collective, self._world)}"
        yield from _batch_lines(self.batches, self.micro_batch)
        state = json.dumps(self._source_state, default=str)
        yield f"source state before the step: {state[:_STATE_SHOWN]}"

    def _attach(self) -> None:
        if self._rank:
            return
        for path in sorted(self._out_dir.glob("watchdog-rank-*.txt")):
            size = path.stat().st_size
            if self._attached.get(path) != size:
                self._attached[path] = size
                self._report.attach(path, path.name)


def _hint(phases: Sequence[str], collective: Collective | None, world: int) -> str:
    words = [_HINTS[name] for name in phases] or ["the loop itself: reporting, or a callback."]
    if collective is not None and not collective.returned:
        words.append("The last collective hasn't returned: this rank waits for another one.")
    if world > 1:
        words.append(_COMPARE)
    return " ".join(words)


def _batch_lines(batches: Sequence[Batch], micro_batch: int) -> Iterator[str]:
    if not batches:
        yield "no micro-batch in work"
        return
    chosen = batches[micro_batch - 1 : micro_batch] if micro_batch else batches
    first = micro_batch or 1
    for number, batch in enumerate(chosen, first):
        yield f"micro-batch {number} of {len(batches)}: {_counts(batch)}"
        rows = _samples(batch)
        yield from rows[:_SAMPLES_SHOWN]
        if len(rows) > _SAMPLES_SHOWN:
            yield f"  and {len(rows) - _SAMPLES_SHOWN} more samples"


def _counts(batch: Batch) -> str:
    text_only = sum(not images for images in batch.sample_images)
    with_images = len(batch.sample_images) - text_only
    kinds = f" ({with_images} with images, {text_only} text only)" if batch.sample_images else ""
    return (
        f"{len(batch.sample_keys)} samples{kinds}, {batch.num_images} images, "
        f"{batch.num_tokens} tokens ({batch.num_image_tokens} of images), "
        f"{batch.supervised:g} supervised"
    )


def _samples(batch: Batch) -> list[str]:
    if not batch.sample_lengths:
        return [f"  {key}" for key in batch.sample_keys]
    rows = zip(batch.sample_keys, batch.sample_lengths, batch.sample_images, strict=True)
    return [f"  {key}: {length} tokens, {images} images" for key, length, images in rows]
