"""The report of a finding: verdict, effects, our table beside the paper's, controls, cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vila_core.store import Store
from vila_ops.reproduce.blocks import Beside, Block, Code, Figure, Heading, Table, Text
from vila_ops.reproduce.charts import Bar, Line, forest, lines
from vila_ops.reproduce.config import BASE, Column, Finding, PaperRow, Plan
from vila_ops.reproduce.cost import costs, wall_seconds
from vila_ops.reproduce.grid import SEEDED
from vila_ops.reproduce.results import CONTROL, REFERENCE, Judged, Results, Spread, rule
from vila_ops.reproduce.runs import Reproduction

_PAPER_SAYS = {"above": "above 0", "below": "below 0", "same": "no difference"}


def blocks(store: Store, done: Reproduction, name: str) -> list[Block]:
    """Return the report of the finding `name`."""
    finding = done.plan.findings[name]
    parts = (
        _summary(done, name, finding),
        _effects(done.results, name),
        _tables(done.results, name, finding),
        _plots(done.results, name, finding),
        _controls(done.results),
        _gate(done.results),
        _arms(done, name, finding),
        _cost(store, done),
        _made(done, name),
    )
    return [block for part in parts for block in part]


def headline(done: Reproduction, name: str) -> list[str]:
    """Return the verdict and the effects as lines for a terminal."""
    said = [f"{name}: {done.results.verdict(name)}"]
    for one in done.results.judged(name):
        mark = "" if one.effect.headline else "  (beside the headline)"
        shown = _interval(one.spread, done.plan, one.effect.measure)
        said.append(f"  {one.verdict:<12}  {one.effect.title}: {shown}{mark}")
    return said


def numbers(done: Reproduction, name: str) -> dict[str, Any]:
    """Return everything that the report states as JSON-able values."""
    results, finding = done.results, done.plan.findings[name]
    gate = results.gate()
    return {
        "finding": name,
        "run": done.run_id,
        "size": done.plan.size_name,
        "seeds": list(done.plan.seed_numbers),
        "level": done.plan.level,
        "plan_digest": done.plan.digest(),
        "verdict": results.verdict(name),
        "effects": [
            {
                "title": one.effect.title,
                "measure": one.effect.measure,
                "after": one.effect.after,
                "arm": one.effect.arm,
                "minus": one.effect.minus,
                "paper": one.effect.paper,
                "smallest": one.smallest,
                "headline": one.effect.headline,
                "verdict": one.verdict,
                **_spread_json(one.spread),
            }
            for one in results.judged(name)
        ],
        "table": {
            arm: {
                f"{column.measure}@{column.after}": _spread_json(spread)
                for column, spread in zip(
                    finding.table, results.row(name, arm, finding.table), strict=True
                )
                if spread is not None
            }
            for arm in finding.arms
        },
        "controls": {
            one.name: {"measure": one.control.measure, "falls": one.falls, **_spread_json(one.drop)}
            for one in results.controls()
        },
        "gate": gate and {"at_least": gate.at_least, "values": list(gate.values)},
    }


def _summary(done: Reproduction, name: str, finding: Finding) -> Iterator[Block]:
    plan, verdict = done.plan, done.results.verdict(name)
    yield Heading(finding.title, 1)
    yield Text(
        f"**{verdict.capitalize()}** at size *{plan.size_name}* ({plan.size.world}, seeds "
        f"{plan.first_seed} to {plan.seed_numbers[-1]}). This is a report of `vila reproduce`; "
        "everything in it is written by the run."
    )
    yield Text(f"The paper: {finding.claim.strip()} ({finding.paper.source})")
    if finding.toy and plan.measures.gate:
        yield Text(f"What stands for it here: {finding.toy.strip()}")
    gate = done.results.gate()
    if gate and gate.missed:
        missed = ", ".join(str(seed) for seed in gate.missed)
        yield Text(
            f"**Flagged: the base model of seed {missed} is below the gate "
            f"({gate.title} at least {gate.at_least:.0%}).** {plan.measures.gate.why}"  # type: ignore[union-attr]
        )


def _effects(results: Results, name: str) -> Iterator[Block]:
    plan = results.plan
    judged = results.judged(name)
    yield Heading("Effects")
    yield Table(
        "",
        ["effect", "mean and interval", "per seed", "of interest from", "paper", "verdict"],
        [_effect_row(plan, one) for one in judged],
    )
    for one in judged:
        if one.effect.because:
            yield Text(f"*{_capital(one.effect.title)}*: {one.effect.because}")
    bars = [
        Bar(
            one.effect.title,
            one.spread.values,
            one.spread.mean,
            one.spread.low,
            one.spread.high,
            one.smallest,
            one.verdict,
        )
        for one in judged
        if plan.measures.measures[one.effect.measure].percent
    ]
    if bars:
        title = f"Differences in points: mean, {plan.level:.0%} interval, seeds"
        yield Figure(f"{name}-effects", forest(title, bars), title)
    yield Text(f"The rule, fixed in the ablation's file before the run: {rule(plan.level)}")
    if len(judged) > 1:
        yield Text(
            "All headline effects must hold together, so no correction for their number is needed. "
            "The others are not corrected for it either: read them as single comparisons."
        )


def _effect_row(plan: Plan, one: Judged) -> list[str]:
    measure = plan.measures.measures[one.effect.measure]
    title = one.effect.title if one.effect.headline else f"*{one.effect.title}*"
    per_seed = ", ".join(
        _number(value, measure.percent, signed=True) for value in one.spread.values
    )
    smallest = _number(one.smallest, measure.percent)
    says = _PAPER_SAYS[one.effect.paper]
    shown = _interval(one.spread, plan, one.effect.measure)
    return [title, shown, per_seed, smallest, says, f"**{one.verdict}**"]


def _tables(results: Results, name: str, finding: Finding) -> Iterator[Block]:
    plan, paper = results.plan, finding.paper
    yield Heading("Our table beside the paper's" if paper.rows else "Our table")
    columns = finding.table
    rows = [
        [f"`{key}` {arm.title}", *_cells(plan, columns, results.row(name, key, columns))]
        for key, arm in finding.arms.items()
    ]
    ours = Table(
        f"{_capital(plan.size.world)}, {plan.seeds} seeds, mean ± standard deviation (shares in %)",
        ["", *(column.title for column in columns)],
        rows,
    )
    theirs = Table(
        paper.source,
        ["", *paper.columns, "arm here"],
        [_paper_row(row) for row in paper.rows],
    )
    yield Beside([ours, theirs] if paper.rows else [ours])
    if not paper.rows:
        return
    yield Text(
        f"The paper's setting: {paper.setting}. The two tables have other models, data and tasks: "
        "only the directions of differences inside a table can be compared, no number of one with "
        "a number of the other."
    )


def _paper_row(row: PaperRow) -> list[str]:
    values = ["" if value is None else str(value) for value in row.values]
    return [row.title, *values, f"`{row.arm}`" if row.arm else ""]


def _plots(results: Results, name: str, finding: Finding) -> Iterator[Block]:
    if finding.plots:
        yield Heading("Curves")
    for plot in finding.plots:
        curve = results.plan.measures.curves[plot.curve]
        drawn = [
            Line(arm, results.curve(name, arm, plot.curve, plot.after), [*finding.arms].index(arm))
            for arm in plot.arms or finding.arms
            if results.measured(name, arm, plot.after)
        ]
        title = f"{curve.title}, after {_STAGE_WORDS[plot.after]}"
        svg = lines(title, curve.axis, drawn, percent=curve.percent)
        yield Figure(f"{name}-{plot.curve}-{plot.after}", svg, title)


def _controls(results: Results) -> Iterator[Block]:
    controls = results.plan.controls
    if controls is None:
        return
    checked = results.controls()
    yield Heading("Controls: what the headline hangs on")
    yield Text(
        "Worlds whose documents lack something, trained on interleaved documents alone and "
        "compared with the same training on the documents as they are. They say what in the data "
        "made the headline, which the headline alone does not."
    )
    head = ["documents", *(column.title for column in controls.columns)]
    reference = results.row(CONTROL, REFERENCE, controls.columns)
    rows = [[controls.reference.title, *_cells(results.plan, controls.columns, reference)]]
    rows += [
        [one.control.arm.title, *_cells(results.plan, controls.columns, one.row)] for one in checked
    ]
    yield Table(f"After {_STAGE_WORDS[controls.after]}, mean ± standard deviation (%)", head, rows)
    for one in checked:
        title = results.plan.measures.measures[one.control.measure].title
        answer = one.control.means if one.falls else one.control.otherwise
        shown = _interval(one.drop, results.plan, one.control.measure)
        yield Text(f"*{one.control.question}* {_capital(title)}: {shown}. {answer}")
    yield Text(
        f"A drop counts if its interval lies below 0 and its mean is at least "
        f"{100 * controls.smallest:.0f} points."
    )


def _gate(results: Results) -> Iterator[Block]:
    gate, spec = results.gate(), results.plan.measures.gate
    if gate is None or spec is None:
        return
    yield Heading("The base model's gate")
    values = ", ".join(f"{100 * value:.1f}" for value in gate.values)
    state = "missed" if gate.missed else "passed"
    yield Text(
        f"{_capital(gate.title)}, base model, per seed: {values}% (at least "
        f"{100 * gate.at_least:.0f}%): {state}. {spec.why}"
    )


def _arms(done: Reproduction, name: str, finding: Finding) -> Iterator[Block]:
    from vila_ops.reproduce.grid import arm_of

    yield Heading("What was trained")
    rows = []
    for key in finding.arms:
        arm = arm_of(done.plan, name, key)
        changed = {stage: getattr(arm, stage) for stage in ("align", "pretrain", "sft")}
        told = [f"`{k}`" for stage, value in changed.items() for k in _flat(stage, value)]
        if arm.data != "default":
            told.insert(0, f"pre-training data: variant `{arm.data}`")
        told += [f"without {stage}" for stage in arm.skip]
        rows.append([f"`{key}` {arm.title}", "; ".join(told) or "nothing"])
    yield Table("Arms, as differences to the size's sections", ["arm", "differs in"], rows)
    seeded = ", ".join(f"`{stage}.{key}`" for stage, keys in SEEDED.items() for key in keys)
    yield Text(
        f"A seed sets {seeded}: weights, order of text and order of samples. All seeds share the "
        "data, the evaluation items and the vision tower, so what these add to the uncertainty is "
        "not in the intervals."
    )
    tuned = done.plan.size.tuned_on
    if set(tuned) & set(done.plan.seed_numbers):
        yield Text(
            "The values of this size were chosen by looking at results of the seeds "
            f"{', '.join(map(str, tuned))}. Some of these are in this report, and its effects may "
            f"be flattered by that. Seeds that nobody looked at: `--first-seed {max(tuned) + 1}`."
        )


def _cost(store: Store, done: Reproduction) -> Iterator[Block]:
    parts = costs(store, done.record)
    yield Heading("Cost")
    rows = [
        [
            part.kind,
            str(part.tasks),
            str(part.computed),
            f"{part.cpu_s:,.0f}",
            f"{part.task_s:,.0f}",
        ]
        for part in parts
    ]
    total = [
        sum(values)
        for values in zip(*((p.tasks, p.computed, p.cpu_s, p.task_s) for p in parts), strict=True)
    ]
    rows.append(["**all**", *(f"{value:,.0f}" for value in total)])
    yield Table(
        "The whole run, with all its findings and controls",
        ["stage", "tasks", "run here", "CPU seconds", "seconds, one after the other"],
        rows,
    )
    environment = done.record.run["environment"]
    minutes = wall_seconds(done.record) / 60
    yield Text(
        f"Its tasks kept a machine of {environment['cores']} cores busy for {minutes:.1f} minutes "
        f"(`{environment['platform']}`), with what else ran there at that time. What came from the "
        "cache counts with what it cost when it was computed."
    )


def _made(done: Reproduction, name: str) -> Iterator[Block]:
    plan, run = done.plan, done.record.run
    yield Heading("How it was made")
    first = f" --first-seed {plan.first_seed}" if plan.first_seed else ""
    sets = "".join(f" --set {shlex.quote(override)}" for override in plan.overrides)
    yield Code(
        f"vila reproduce {shlex.join(plan.names)} --size {shlex.quote(plan.size_asked)} "
        f"--seeds {plan.seeds}{first}{sets}"
    )
    packages = ", ".join(f"{k} {v}" for k, v in run["environment"]["packages"].items() if v)
    yield Text(
        f"Run `{done.run_id}`, begun {run['created_at'][:16].replace('T', ' ')} UTC; code "
        f"`{run['code_digest'][:12]}`; plan `{plan.digest()[:12]}`, with arms, effects and sizes "
        f"as they were before the run (`runs/{done.run_id}/reproduce.json` in the store); Python "
        f"{run['environment']['python']}, {packages}."
    )


_STAGE_WORDS: Mapping[str, str] = {
    BASE: "the base model",
    "align": "alignment",
    "pretrain": "pre-training",
    "sft": "fine-tuning",
}


def _cells(plan: Plan, columns: Sequence[Column], row: Sequence[Spread | None]) -> list[str]:
    return [
        "" if spread is None else _mean(spread, plan.measures.measures[column.measure].percent)
        for column, spread in zip(columns, row, strict=True)
    ]


def _mean(spread: Spread, percent: bool) -> str:
    return f"{_number(spread.mean, percent)} ± {_number(spread.std, percent)}"


def _interval(spread: Spread, plan: Plan, measure: str) -> str:
    percent = plan.measures.measures[measure].percent
    mean, low, high = (
        _number(value, percent, signed=True) for value in (spread.mean, spread.low, spread.high)
    )
    return f"{mean} [{low}, {high}]{' points' if percent else ''}"


def _number(value: float, percent: bool, *, signed: bool = False) -> str:
    shown = 100 * value if percent else value
    digits = 1 if percent else 3
    return f"{shown:+.{digits}f}" if signed else f"{shown:.{digits}f}"


def _flat(prefix: str, values: Mapping[str, Any]) -> list[str]:
    from vila_ops.compare import flatten

    return [f"{key}={value}" for key, value in flatten(values, f"{prefix}.").items()]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _spread_json(spread: Spread) -> dict[str, Any]:
    return {
        "mean": spread.mean,
        "low": spread.low,
        "high": spread.high,
        "std": spread.std,
        "values": list(spread.values),
    }
