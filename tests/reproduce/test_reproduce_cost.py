"""How long tasks kept a machine busy, and what of many tasks is the run's own."""

from components.runtime.record import Attempt, RunRecord
from vila_ops.reproduce.cost import wall_seconds
from vila_ops.view import RunView, TaskView


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


def test_what_many_models_were_measured_by_is_no_metric_of_the_run():
    tasks = tuple(
        TaskView(f"evaluate-{arm}", "evaluate", "succeeded", metrics=metrics)
        for arm, metrics in {
            "base": {"text/accuracy@4": 1.0},
            "a": {"images/accuracy@4": 0.1},
            "b": {"images/accuracy@4": 0.9},
        }.items()
    )
    view = RunView("r1", "r", "reproduce-x", "inline", "succeeded", "", 1.0, "", "", {}, tasks)
    assert view.metrics == {"text/accuracy@4": 1.0}
