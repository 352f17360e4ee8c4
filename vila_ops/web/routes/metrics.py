"""`/metrics`: figures in Prometheus' text format. Their reference: docs/reference/dashboard.md."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from vila_core import __version__
from vila_ops.run_index import STATUSES, RunRow, finite
from vila_ops.view import RunView, TaskView
from vila_ops.web.watch import MOST_RUNNING, Snapshot, Watch

STAGES = ("prepare", "align", "pretrain", "sft", "evaluate", "export", "register")
TASK_STATUSES = (
    "waiting",
    "running",
    "succeeded",
    "cached",
    "failed",
    "stopped",
    "interrupted",
    "not run",
)
BUCKETS = (1, 10, 60, 600, 3600, 21600, 86400)

router = APIRouter(include_in_schema=False)

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # what follows the family's name, labels, value


@router.get("/metrics")
def metrics(request: Request) -> PlainTextResponse:
    """Return all figures, by the last listing of the runs."""
    watch: Watch = request.app.state.watch
    text = "".join(_lines(watch))
    return PlainTextResponse(
        text.encode("utf-8", "replace"), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def _lines(watch: Watch) -> Iterator[str]:
    yield from _family("build_info", "gauge", "The version.", [("", {"version": __version__}, 1)])
    probe = watch.probe
    yield from _one("store_up", "Whether the store answered the last probe.", float(probe.ok))
    yield from _one("store_latency_seconds", "How long the last probe took.", probe.latency_s)
    if watch.snapshot is not None:
        yield from _runs(watch.snapshot)
        yield from _running(watch.snapshot)


def _runs(seen: Snapshot) -> Iterator[str]:
    rows = seen.listing.rows
    yield from _one("index_age_seconds", "Since the runs were last listed.", seen.age_s)
    yield from _one("index_duration_seconds", "How long listing them took.", seen.duration_s)
    runs = Counter(row.status for row in rows)
    yield from _by_status("runs", "Runs by status.", STATUSES, runs)
    unreadable = len(seen.listing.unreadable)
    yield from _one("runs_unreadable", "Records that can't be read.", unreadable)
    tasks = Counter(task.status for row in rows for task in row.tasks)
    yield from _by_status("tasks", "Tasks of all runs by status.", TASK_STATUSES, tasks)
    text = "How long computed tasks took that succeeded, by stage."
    yield from _family("task_duration_seconds", "histogram", text, _durations(rows))


def _durations(rows: Iterable[RunRow]) -> Iterator[Sample]:
    counts: dict[str, list[int]] = {}
    sums: Counter[str] = Counter()
    for row in rows:
        for task in row.tasks:
            if task.status == "succeeded" and task.duration_s is not None:
                stage = task.stage if task.stage in STAGES else "other"
                held = counts.setdefault(stage, [0] * (len(BUCKETS) + 1))
                held[bisect_left(BUCKETS, task.duration_s)] += 1
                sums[stage] += task.duration_s  # type: ignore[assignment]
    for stage in sorted(counts):
        total = 0
        for most, count in zip([*map(str, BUCKETS), "+Inf"], counts[stage], strict=True):
            total += count
            yield "_bucket", {"stage": stage, "le": most}, total
        yield "_sum", {"stage": stage}, sums[stage]
        yield "_count", {"stage": stage}, total


def _running(seen: Snapshot) -> Iterator[str]:
    views = sorted(
        seen.listing.running.values(),
        key=lambda view: (view.started_at, view.run_id),
        reverse=True,
    )
    left_out = max(0, len(views) - MOST_RUNNING)
    yield from _one("running_runs_left_out", "Running runs that have no series.", left_out)
    found: dict[str, list[Sample]] = {}
    for view in views[:MOST_RUNNING]:
        for task in view.tasks:
            if task.status == "running":
                latest = seen.latest.get((view.run_id, task.name), {})
                for name, value in _of_task(view, task, latest):
                    if (number := finite(value)) is not None:
                        labels = {"run": view.run_id, "task": task.name}
                        found.setdefault(name, []).append(("", labels, number))
    for name, text in _TASK_TEXTS.items():
        yield from _family(f"task_{name}", "gauge", text, found.get(name, []))


_TASK_TEXTS = {
    "progress_ratio": "Share of the task that is done.",
    "heartbeat_age_seconds": "Since the task was last heard of.",
    "loss": "Latest loss, nats per supervised token.",
    "tokens_per_second": "Tokens per second, by the latest row of metrics.",
    "mfu_ratio": "Model FLOP/s utilisation, by the latest row of metrics.",
    "memory_bytes": "Resident memory of the task's processes.",
}


def _of_task(
    view: RunView, task: TaskView, latest: Mapping[str, float]
) -> Iterator[tuple[str, object]]:
    progress = task.progress
    done, total = finite(progress.get("done")), finite(progress.get("total"))
    if done is not None and total:
        yield "progress_ratio", done / total
    heard = progress.get("at") or task.started_at
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(str(heard))
        yield "heartbeat_age_seconds", max(0.0, age.total_seconds())
    except (ValueError, TypeError):  # a foreign record
        pass
    yield "loss", task.loss if task.loss is not None else latest.get("loss")
    yield "tokens_per_second", latest.get("tokens_per_s")
    yield "mfu_ratio", latest.get("mfu")
    yield "memory_bytes", progress.get("rss_bytes")


def _by_status(
    name: str, text: str, known: Iterable[str], counts: Mapping[str, int]
) -> Iterator[str]:
    samples = [("", {"status": one.replace(" ", "_")}, float(counts.get(one, 0))) for one in known]
    yield from _family(name, "gauge", text, samples)


def _one(name: str, text: str, value: float) -> Iterator[str]:
    yield from _family(name, "gauge", text, [("", {}, value)])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP vila_{name} {text}\n# TYPE vila_{name} {kind}\n"
    for suffix, labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(held)}"' for label, held in labels.items())
        place = f"{{{inner}}}" if inner else ""
        yield f"vila_{name}{suffix}{place} {value:.17g}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
