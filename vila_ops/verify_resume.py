"""`vila verify resume`: does a training that is resumed end with the bits of one that is not?

Two checkpoints of the task, where there are two, are the strongest witness: the steps between them
are replayed from the first and compared with the second. Else a window is trained straight, and
once more from a checkpoint in its middle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.runtime import stage_module
from components.runtime.code import code_digest
from components.runtime.mirror import checkpoints_of, mirror_of
from components.runtime.record import Attempt, RunRecord, now
from components.runtime.workspace import work_folder
from vila_core.errors import UserError, VilaError
from vila_core.jsonio import dumps
from vila_core.store import Store, fetch, ref_of
from vila_ops.runs import find_task, load_view

if TYPE_CHECKING:
    from vila_core.train.checkpoint import Checkpoint

WINDOW = 10
"""Steps of a window where the task left no two checkpoints."""
_TRAINING = ("sft", "pretrain", "align")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Certificate:
    """What was replayed, and what differed. Written to `runs/<id>/certificates/`."""

    run_id: str
    task: str
    against: str  # "the task's own checkpoint" | "an uninterrupted replay"
    first: int  # the checkpoint that was resumed
    last: int
    differences: tuple[str, ...]
    compared: Mapping[str, Any] = field(default_factory=dict)
    code_changed: bool = False

    @property
    def equal(self) -> bool:
        """Whether every bit was the same."""
        return not self.differences

    def as_json(self) -> dict[str, Any]:
        """Return the certificate as it is stored."""
        return {
            "kind": "resume",
            "run_id": self.run_id,
            "task": self.task,
            "equal": self.equal,
            "against": self.against,
            "resumed_from": self.first,
            "compared_at": self.last,
            "compared": dict(self.compared),
            "differences": list(self.differences),
            "code_changed_since": self.code_changed,
            "made_at": now(),
        }

    def text(self) -> str:
        """Return the certificate as lines."""
        told = f"resumed from step {self.first}, compared at step {self.last} with {self.against}"
        seen = ", ".join(
            f"{self.compared[key]:,} {key}" for key in ("samples", "tensors", "values")
        )
        lines = [
            f"{self.task}: {'equal to the bit' if self.equal else 'DIFFERENT'}: {told} ({seen})"
        ]
        lines += [f"  {text}" for text in self.differences]
        if self.code_changed:
            lines.append(
                "  the code has changed since the run: this is about the code as it is now"
            )
        return "\n".join(lines)


def verify_resume(
    store: Store, run_id: str, task: str | None, *, steps: int | None, say: Say
) -> Certificate:
    """Replay a window of a training task, compare, and store the certificate in the run's record.

    `steps` is the longest window. Raises UserError for a task that does not train or has not begun,
    VilaError when the replay itself fails.
    """
    name, attempt = _started(store, run_id, task)
    parts = attempt.started["key_parts"]
    if steps is not None and steps < 2:
        raise UserError(f"--steps {steps}: a window has at least 2 steps.")
    with tempfile.TemporaryDirectory(prefix="vila-verify-") as folder:
        replay = _Replay(store, attempt, Path(folder))
        pair = _pair(store, attempt.started["key"], replay.folder / "own", steps)
        if pair is not None:
            result = replay.against_own(*pair, say)
        else:
            result = replay.twice(steps or WINDOW, say)
        against, first, before, after = result
        from vila_core.train.difference import compared, differences

        certificate = Certificate(
            run_id,
            name,
            against,
            first,
            before.step,
            tuple(differences(before, after)),
            compared(before, after),
            code_digest(stage_module(parts["stage"])).digest != parts["code"]["digest"],
        )
    place = f"runs/{run_id}/certificates/resume-{name}.json"
    store.write(place, (dumps(certificate.as_json(), indent=1) + "\n").encode())
    return certificate


Result = tuple[str, int, "Checkpoint", "Checkpoint"]


class _Replay:
    """Runs the stage of a task again, in processes of their own, in a folder that goes."""

    def __init__(self, store: Store, attempt: Attempt, folder: Path) -> None:
        parts = attempt.started["key_parts"]
        self.stage, self.config = parts["stage"], attempt.config
        self.total = self.config["train"]["steps"]
        self.folder = folder
        inputs = {name: fetch(store, ref_of(store, sha)) for name, sha in parts["inputs"].items()}
        self.inputs = {name: str(path) for name, path in inputs.items()}

    def against_own(self, first: Path, last: Path, say: Say) -> Result:
        """From the task's checkpoint `first` to the step of `last`."""
        from vila_core.train.checkpoint import open_checkpoint

        before = open_checkpoint(last)
        start = open_checkpoint(first).step
        say(f"replaying steps {start + 1} to {before.step} from the task's checkpoint step-{start}")
        after = self._run("again", before.step, before.step, resume=first)
        return "the task's own checkpoint", start, before, open_checkpoint(after)

    def twice(self, steps: int, say: Say) -> Result:
        """The first `steps` straight, and again from a checkpoint in their middle."""
        from vila_core.train.checkpoint import open_checkpoint

        middle = max(1, min(steps, self.total) // 2)
        last = min(2 * middle, self.total)
        say(f"the task left no two checkpoints: training steps 1 to {last}, uninterrupted")
        before = self._run("straight", last, middle)
        say(f"resuming from step {middle}")
        first = before.parent / f"step-{middle}"
        after = self._run("again", last, middle, resume=first)
        return "an uninterrupted replay", middle, open_checkpoint(before), open_checkpoint(after)

    def _run(self, name: str, last: int, save_every: int, resume: Path | None = None) -> Path:
        """Train to step `last` and return its checkpoint."""
        out_dir = self.folder / name
        if resume is not None:
            shutil.copytree(resume, out_dir / "checkpoints" / resume.name)
        train = self.config["train"]
        ranks = train.get("nodes", 1) * train.get("processes", 1)  # all of them on this machine
        saving = {"save_every": save_every, "keep": 2, "keep_every": 0}
        saving |= {"nodes": 1, "processes": ranks}
        call = {
            "stage": self.stage,
            "config": {**self.config, "train": {**train, **saving}},
            "inputs": self.inputs,
            "out_dir": str(out_dir),
            "last": last,
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(call), encoding="utf-8")
        command = [sys.executable, "-m", "vila_ops.replay", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = out_dir / "checkpoints" / f"step-{last}"
        if done.returncode or not (found / "manifest.json").is_file():
            tail = "\n  ".join(done.stderr.strip().splitlines()[-15:])
            raise VilaError(
                f"the replay of {self.stage} failed (exit {done.returncode}):\n  {tail}"
            )
        return found


def _started(store: Store, run_id: str, task: str | None) -> tuple[str, Attempt]:
    """Return the task's name and its latest attempt that began."""
    view = load_view(store, run_id)
    if task is None:
        trained = [one.name for one in view.tasks if one.stage in _TRAINING]
        if not trained:
            raise UserError(f"run {run_id} trains nothing that is known; fix: name it by --task.")
        task = trained[-1]
    name = find_task(view, task).name
    attempts = RunRecord.load(store, run_id).tasks.get(name, ())
    for attempt in reversed(attempts):
        parts = attempt.started.get("key_parts")
        if parts:
            if "steps" not in (attempt.config.get("train") or {}):
                raise UserError(f"task {name} does not train: there is nothing to resume in it.")
            return name, attempt
    raise UserError(f"task {name} of run {run_id} has not begun; run it first.")


def _pair(store: Store, key: str, folder: Path, steps: int | None) -> tuple[Path, Path] | None:
    """Return copies of the last two whole checkpoints of a task, at most `steps` apart."""
    from vila_core.train.checkpoint import problem_of

    places: dict[int, Callable[[Path], object]] = {}
    mirror = mirror_of(store, key)
    if mirror is not None:
        for step in mirror.steps():
            places[step] = lambda to, step=step: mirror.pull(step, to)
    kept = store.local_path(checkpoints_of(key))
    for parent in (kept, work_folder(store, key) / "checkpoints"):
        for path in parent.glob("step-*") if parent is not None else ():
            if path.name.removeprefix("step-").isdigit():
                step = int(path.name.removeprefix("step-"))
                places[step] = lambda to, path=path: shutil.copytree(path, to)
    whole: list[int] = []
    for step in sorted(places, reverse=True):
        if whole and steps is not None and whole[-1] - step > steps:
            whole = []
        try:  # a running task may remove it meanwhile
            places[step](folder / f"step-{step}")
        except (OSError, VilaError):
            continue
        if problem_of(folder / f"step-{step}") is None:
            whole.append(step)
        if len(whole) == 2:
            return folder / f"step-{whole[1]}", folder / f"step-{whole[0]}"
    return None
