import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vila_core.store import ArtifactRef
from vila_ops.driver.graph import Graph, Parameter, Task
from vila_ops.driver.schedule import TaskError, run_graph


class Process:
    """A real process in a group of its own."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        self.cleaned = False

    def poll(self) -> int | None:
        return self.process.poll()

    def outputs(self) -> dict[str, ArtifactRef]:
        return {"out": ArtifactRef("file:///nowhere", "0" * 64)}

    def last_lines(self) -> str:
        return ""

    def stop(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)

    def clean(self) -> None:
        self.process.wait(5)
        self.cleaned = True


def graph(**needs: str) -> Graph:
    tasks = {
        name: Task(
            name=name,
            key=name,
            component="",
            executor="",
            stage="",
            parameters={"config": Parameter()},
            inputs={f"in{i}": (other, "out") for i, other in enumerate(text.split())},
            outputs={"out": "system.Artifact"},
            depends_on=frozenset(text.split()),
        )
        for name, text in needs.items()
    }
    return Graph("test", Path(), {}, tasks, {name: len(needs) - i for i, name in enumerate(needs)})


class Journal:
    def __init__(self, codes: dict[str, str], hits: tuple[str, ...] = ()) -> None:
        self.codes, self.hits = codes, hits
        self.processes: dict[str, Process] = {}
        self.looked_up: list[str] = []
        self.ended: list[tuple[str, int]] = []
        self.most = 0

    def run(self, made: Graph, max_parallel: int = 2, check=lambda: None):
        return run_graph(
            made,
            look_up=self.look_up,
            start=self.start,
            ended=lambda task, process, code: self.ended.append((task.name, code)),
            check=check,
            max_parallel=max_parallel,
        )

    def look_up(self, task: Task, inputs):
        self.looked_up.append(task.name)
        return {"out": ArtifactRef("file:///cached", "1" * 64)} if task.name in self.hits else None

    def start(self, task: Task, inputs) -> Process:
        assert set(inputs) == set(task.inputs)
        self.processes[task.name] = Process(self.codes.get(task.name, "pass"))
        alive = sum(process.poll() is None for process in self.processes.values())
        self.most = max(self.most, alive)
        return self.processes[task.name]


SLEEP = "import time; time.sleep(0.4)"


def test_independent_tasks_run_side_by_side_up_to_the_limit():
    journal = Journal({"a": SLEEP, "b": SLEEP, "c": SLEEP})
    done = journal.run(graph(a="", b="", c="", d="a b c"))
    assert set(done) == {"a", "b", "c", "d"}
    assert journal.most == 2
    assert journal.ended[-1] == ("d", 0)
    assert all(process.cleaned for process in journal.processes.values())


def test_a_hit_starts_no_process_and_each_task_is_looked_up_once():
    journal = Journal({}, hits=("a", "b"))
    journal.run(graph(a="", b="a", c="b"), max_parallel=1)
    assert list(journal.processes) == ["c"]
    assert journal.looked_up == ["a", "b", "c"]


def test_a_failed_task_stops_the_others_and_nothing_after_it_starts():
    journal = Journal({"a": "raise SystemExit(7)", "b": "import time; time.sleep(60)"})
    began = time.monotonic()
    with pytest.raises(TaskError) as caught:
        journal.run(graph(a="", b="", c="a"))
    assert (caught.value.task, caught.value.task_exit_code) == ("a", 7)
    assert "c" not in journal.processes
    assert not psutil.pid_exists(journal.processes["b"].process.pid)
    assert time.monotonic() - began < 5


def test_a_task_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vila_ops.driver.schedule.STOP_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x'); time.sleep(60)"
    journal = Journal({"a": deaf})
    until = time.monotonic() + 0.5

    def check() -> None:
        if time.monotonic() > until:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.run(graph(a=""), check=check)
    assert journal.processes["a"].process.returncode == -signal.SIGKILL
