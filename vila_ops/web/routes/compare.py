"""Two to twenty runs side by side. All that is chosen stands in the URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from vila_core.errors import Damaged, NotFound, UserError
from vila_core.store import Store
from vila_ops.comparing.chosen import MOST_RUNS, Chosen, in_order
from vila_ops.comparing.disagreements import (
    WHO,
    Disagreement,
    Found,
    find_disagreements,
    parse_key,
)
from vila_ops.comparing.overlay import (
    AXES,
    BANDS,
    FIRST,
    SMOOTHINGS,
    curve_names,
    curve_tasks,
    default_task,
)
from vila_ops.comparing.report import Report, make_report
from vila_ops.evaluations import Evaluation
from vila_ops.metric_units import unit_of
from vila_ops.samples import Sample, Shown
from vila_ops.web.asked import image_path, question_of
from vila_ops.web.compare_state import EVERY, State
from vila_ops.web.loading import pairs_of, samples_of, store_of
from vila_ops.web.pages import page
from vila_ops.web.watch import Watch

MOST_SHOWN = 6
MOST_METRIC_ROWS = 400
OFFERED = 40
NOISE = "noise of seeds"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Look:
    """The curves that are shown: the task, its metrics, and all there are."""

    tasks: tuple[str, ...]
    task: str
    metrics: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """A question on which runs disagree, ready to be shown."""

    row: Disagreement
    sample: Sample | None
    note: str


@dataclass(frozen=True)
class Answers:
    """The section of disagreements; `note` says why there are none."""

    names: tuple[str, ...] = ()
    benchmark: str = ""
    runs: tuple[Chosen, ...] = ()
    found: Found | None = None
    shared: tuple[Shared, ...] = ()
    note: str = ""
    pending: bool = False


@router.get("/compare")
def compare(request: Request) -> Response:
    """Show the comparison, or a choice of runs where none are named."""
    watch: Watch = request.app.state.watch
    state = State.of(request.query_params)
    if not state.run:
        return _choice(request, watch)
    report, state = _report(request, watch.store, state)
    names = tuple(one.name for one in report.runs)
    names += tuple(one.run for one in report.problems if one.run != NOISE)
    if names != state.run:
        return RedirectResponse(f"/compare{state.query(run=names)}", 303)
    metrics = [one for one in report.metrics if state.rows == "all" or not one.same]
    return page(
        request,
        "compare.html",
        report=report,
        state=state,
        look=_look(watch.store, report.runs, state),
        shots=_shots(report),
        answers=_answers(request, report, state),
        metrics=metrics[:MOST_METRIC_ROWS],
        metrics_left_out=max(0, len(metrics) - MOST_METRIC_ROWS),
        group_of=_group_of(report),
        offered=_offered(watch),
        most=MOST_RUNS,
        words={"axes": AXES, "bands": BANDS, "smoothings": SMOOTHINGS, "who": WHO},
        unit_of=unit_of,
        image_path=image_path,
        break_after=Markup("_<wbr>"),
        is_image=lambda part: isinstance(part, Shown),
    )


def _report(request: Request, store: Store, state: State) -> tuple[Report, State]:
    pairs = pairs_of(request)
    try:
        return make_report(store, pairs, state.run, reference=state.ref), state
    except UserError:  # the reference was taken off the page
        return make_report(store, pairs, state.run), replace(state, ref="")


def _choice(request: Request, watch: Watch) -> Response:
    seen = watch.snapshot
    text = request.query_params.get("q", "").strip()[:200]
    rows = [
        row
        for row in (seen.listing.rows if seen else ())
        if not text or text.casefold() in f"{row.run_id} {row.recipe}".casefold()
    ]
    rows = sorted(rows, key=lambda row: row.started_at, reverse=True)
    return page(
        request,
        "compare_choice.html",
        rows=rows[:OFFERED],
        found=len(rows),
        q=text,
        waiting=seen is None,
        trouble=watch.trouble,
        most=MOST_RUNS,
    )


def _offered(watch: Watch) -> list[str]:
    """Return ids of runs that may be added, the newest first."""
    rows = watch.snapshot.listing.rows if watch.snapshot else ()
    newest = sorted(rows, key=lambda row: row.started_at, reverse=True)
    return [row.run_id for row in newest[:OFFERED]]


def _look(store: Store, runs: Sequence[Chosen], state: State) -> Look:
    tasks = curve_tasks(runs)
    task = state.task if state.task in tasks else default_task(tasks)
    names = curve_names(store, runs, task) if task else []
    if state.metric == (EVERY,):
        shown = names
    else:
        shown = [name for name in state.metric if name in names]
        shown = shown or [name for name in names if name in FIRST] or names[:MOST_SHOWN]
    return Look(tuple(tasks), task, tuple(shown), tuple(names))


def _shots(report: Report) -> list[str]:
    """Return the benchmarks that were asked with several numbers of demonstrations."""
    times: dict[str, int] = {}
    for name in report.scores:
        benchmark = name.rpartition("@")[0]
        times[benchmark] = times.get(benchmark, 0) + 1
    return [benchmark for benchmark, count in times.items() if count > 1]


def _group_of(report: Report) -> Mapping[int, str]:
    """Return, by run, with which others it differs in nothing but seeds."""
    return {
        place: group.letters for group in report.groups if group.repeated for place in group.members
    }


def _answers(request: Request, report: Report, state: State) -> Answers:
    """Return disagreements of the reference with another run; a problem is told in place."""
    if len(report.runs) < 2:
        return Answers(note="A second run is needed, to disagree with the first.")
    try:
        reference = report.runs[report.reference].name
        try:
            order = in_order(list(report.runs), reference, state.other)
        except UserError:  # the other one was taken off the page
            order = in_order(list(report.runs), reference)
        outcome = report.outcomes[report.runs.index(order[1])]
        if outcome.pending:
            return Answers(runs=tuple(order), pending=True)
        if outcome.paired is None:
            return Answers(runs=tuple(order), note=outcome.problem)
        rows = sorted(outcome.paired.rows, key=lambda row: (row.p, -abs(row.difference)))
        names = tuple(row.name for row in outcome.paired.rows)
        if not names:
            return Answers(runs=tuple(order), note="They were asked no benchmark in common.")
        benchmark = state.benchmark if state.benchmark in names else rows[0].name
        evaluations, shown = _evaluations(request, order)
        found = find_disagreements(
            store_of(request),
            evaluations,
            parse_key(benchmark),
            who=state.who,
            page=state.page,
        )
    except (UserError, NotFound, Damaged) as error:
        return Answers(note=str(error))
    samples = samples_of(request)
    shared = tuple(Shared(row, *question_of(row, shown[0], samples)) for row in found.rows)
    return Answers(names, benchmark, tuple(shown), found, shared)


def _evaluations(
    request: Request, order: Sequence[Chosen]
) -> tuple[list[Evaluation], list[Chosen]]:
    """Return what can be read; the first two must be. Of others what was read already."""
    evaluations: list[Evaluation] = []
    shown: list[Chosen] = []
    for one in order:
        if len(shown) > 1 and not pairs_of(request).evaluations.known(one.view, one.task):
            continue
        try:
            evaluations.append(pairs_of(request).evaluation(one))
        except (UserError, NotFound, Damaged):
            if len(shown) < 2:
                raise
        else:
            shown.append(one)
    return evaluations, shown
