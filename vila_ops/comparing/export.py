"""A comparison as files: CSV for a spreadsheet, Markdown for an issue."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from vila_ops.comparing.chosen import Chosen
from vila_ops.comparing.overlay import Overlay
from vila_ops.comparing.report import Report, Score
from vila_ops.curves import listed_numbers

METRICS = (
    "kind", "name", "run", "value", "reference", "difference", "low", "high", "p", "p_holm",
    "questions", "test", "verdict", "noise",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def metrics_csv(report: Report) -> str:
    """Return a line per run and benchmark (`kind` test), and per run and metric (`kind` metric)."""
    lines: list[list[object]] = [list(METRICS)]
    reference = report.runs[report.reference].name if report.runs else ""
    for name, cells in report.scores.items():
        for one, cell in zip(report.runs, cells, strict=True):
            row = cell.row
            if row is None:
                if cell.score is not None:
                    lines.append(["test", name, one.name, cell.score, reference, *[None] * 9])
                continue
            lines.append(
                [
                    "test", name, one.name, row.second, reference, row.difference, row.low,
                    row.high, row.p, row.p_holm, row.questions, row.test, cell.verdict, row.noise,
                ]
            )  # fmt: skip
    for metric in report.metrics:
        noise = metric.noise.difference() if metric.noise else None
        for one, value in zip(report.runs, metric.values, strict=True):
            if value is not None:
                lines.append(["metric", metric.name, one.name, value, *[None] * 9, noise])
    return _csv(lines)


def settings_csv(report: Report, *, everything: bool = False) -> str:
    """Return a line per setting, a column per run; only what differs unless `everything`."""
    lines: list[list[object]] = [["section", "setting", *(one.name for one in report.runs)]]
    for section in report.settings:
        for one in section.settings if everything else section.different:
            lines.append([section.name, one.key, *one.values])
    return _csv(lines)


def curves_csv(drawn: Overlay, runs: Sequence[Chosen]) -> str:
    """Return a line per metric, line of the chart and place on the axis."""
    lines: list[list[object]] = [["task", "metric", "runs", drawn.axis, "value", "low", "high"]]
    x = listed_numbers(drawn.x)
    for chart in drawn.charts:
        for line in chart.lines:
            names = " ".join(runs[place].name for place in line.runs)
            columns = [
                [None] * len(x) if values is None else listed_numbers(values)
                for values in (line.y, line.low, line.high)
            ]
            for at, y, low, high in zip(x, *columns, strict=True):
                if y is not None:
                    lines.append([drawn.task, chart.metric, names, at, y, low, high])
    return _csv(lines)


def markdown(report: Report, *, site: str = "") -> str:
    """Return scores and what differs as tables for an issue; `site` is the dashboard's address."""
    if not report.runs:
        return "Nothing to compare.\n"
    parts = [_runs_table(report), _scores_table(report), _settings_table(report)]
    parts += [f"- {_plain(one)}" for one in report.warnings]
    parts.append(f"[The whole comparison]({site}{report.link})" if site else f"`{report.link}`")
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs_table(report: Report) -> str:
    rows = [["", "run", "status", "recipe", "code"]]
    for place, one in enumerate(report.runs):
        mark = " (reference)" if place == report.reference else ""
        view = one.view
        rows.append(
            [one.letter, f"{one.name}{mark}", view.status, view.recipe, view.code_digest[:12]]
        )
    return _table(rows)


def _scores_table(report: Report) -> str:
    if not report.scores:
        return ""
    rows = [["benchmark", *(one.letter for one in report.runs)]]
    for name, cells in report.scores.items():
        rows.append([name, *(_cell(cell) for cell in cells)])
    said = (
        f"Points of 100, difference to {report.runs[report.reference].letter} with 95% interval; "
        f"p corrected for {report.tests} tests (Holm)."
    )
    return f"{_table(rows)}\n\n{said}"


def _cell(cell: Score) -> str:
    if cell.row is None:
        if cell.pending:
            return "being computed"
        return cell.why or ("" if cell.score is None else f"{100 * cell.score:.1f}")
    row = cell.row
    interval = f"{100 * row.low:+.1f} … {100 * row.high:+.1f}"
    return (
        f"{100 * row.second:.1f} ({100 * row.difference:+.1f}, {interval}, p {row.p_holm:.2g}: "
        f"{cell.verdict})"
    )


def _settings_table(report: Report) -> str:
    rows = [["setting", *(one.letter for one in report.runs)]]
    for section in report.settings:
        for one in section.different:
            name = f"{section.name}.{one.key}" if one.key else section.name
            rows.append([name, *("-" if value is None else value for value in one.values)])
    return _table(rows) if len(rows) > 1 else "Settings, code, data and environment are the same."


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows]
    width = lines[0].count(" | ") + 1
    return "\n".join([lines[0], "|" + "---|" * width, *lines[1:]])


def _plain(text: str) -> str:
    """Return text that no Markdown reads as anything else."""
    kept = "".join(f"\\{c}" if c in "\\`*_[]<>|#~!&" else c for c in " ".join(text.split()))
    return kept[:200] + ("…" if len(kept) > 200 else "")


def _csv(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    for line in lines:
        writer.writerow([_safe(value) for value in line])
    return out.getvalue()


def _safe(value: object) -> object:
    """Return a cell; a spreadsheet must not take text for a formula."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return f"'{text}" if text.startswith(_FORMULA) else text
    return "" if value is None else value
