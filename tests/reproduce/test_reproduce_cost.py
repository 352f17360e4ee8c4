"""How long tasks kept a machine busy."""

from components.runtime.record import Attempt, RunRecord
from vila_ops.reproduce.cost import wall_seconds


def attempt(task: str, begin: str, end: str | None) -> Attempt:
    day = "2026-01-01T10:{}+00:00"
    finished = {"ended_at": day.format(end)} if end else None
    return Attempt(task, 1, "", {"started_at": day.format(begin)}, {}, finished)


def test_time_in_which_several_tasks_ran_counts_once_and_waiting_not_at_all():
    attempts = [
        attempt("a", "00:00", "00:30"),
        attempt("b", "00:10", "00:20"),  # inside of a
        attempt("c", "00:25", "00:40"),
        attempt("d", "05:00", "05:10"),  # after a resume
        attempt("e", "05:05", None),  # killed
    ]
    record = RunRecord("r1", {}, None, None, {one.task: (one,) for one in attempts})
    assert wall_seconds(record) == 50
    assert wall_seconds(RunRecord("r1", {}, None, None, {})) == 0
