"""A version's model card, in Hugging Face's format, made from the version's own records.

Nothing in it depends on when it is made or on where aliases stand, so a version has one card.
Whatever was written by others (names, reasons, licences) is escaped: see `escape`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from components.registry import Version
from vila_core.errors import StoreError
from vila_core.layouts import OURS
from vila_core.store import Store
from vila_ops.registry.architecture import Architecture, architecture
from vila_ops.registry.card_results import evaluation, gates, limits
from vila_ops.registry.card_training import data, lineage, recipe
from vila_ops.registry.card_use import use
from vila_ops.registry.escape import code, front_matter, one_line, prose
from vila_ops.registry.measured import Measured, Results, measured
from vila_ops.registry.trained import Training, training

T = TypeVar("T")

LIBRARIES = {
    OURS: "vila-platform",
    "llava": "llava",
    "vila15": "vila",
    "transformers": "transformers",
    "transformers-4.52": "transformers",
}
"""What loads a folder, by its layout."""


def card(store: Store, version: Version, layout: str = OURS) -> str:
    """Return the model card of a version: YAML front matter and Markdown.

    `layout` is that of the folder that it goes into. Records that are gone leave a sentence that
    says so.
    """
    made = _or(lambda: architecture(store, version), Architecture({}, {}, {}, None, ()))
    trained = _or(lambda: training(store, version), Training({}, (), (), ()))
    results = _or(lambda: measured(store, version), Results((), (_UNREADABLE,), ""))
    projector = str(made.config.get("projector"))
    sections: tuple[tuple[str, Callable[[], list[str]]], ...] = (
        ("What it is", lambda: _what_it_is(made, trained)),
        ("How it was trained", lambda: recipe(trained)),
        ("Data", lambda: data(trained)),
        ("Evaluation", lambda: evaluation(results)),
        ("Gates", lambda: gates(version)),
        ("Limits", lambda: limits(version, trained, results)),
        ("How to use it", lambda: use(version, layout, projector)),
        ("Lineage", lambda: lineage(version, trained, made)),
    )
    lines = [f"# {prose(version.model)}, version {version.number}", ""]
    for title, section in sections:
        lines += _or(section, [f"## {title}", "", _UNREADABLE, ""])
    head = _or(lambda: _metadata(version, made, trained, results, layout), dict(_LICENCE))
    return f"{front_matter(head)}\n" + "\n".join(lines).rstrip() + "\n"


_UNREADABLE = "This part of the records can't be read."


def _or(make: Callable[[], T], otherwise: T) -> T:
    """Return what is made, or else something, where a record isn't what this platform writes.

    One bad record must cost no more of a card, or of a page that shows it, than its own part.
    """
    try:
        return make()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StoreError):
        return otherwise


def _what_it_is(made: Architecture, trained: Training) -> list[str]:
    text, vision = (made.config.get(name) or {} for name in ("text_config", "vision_config"))
    parts = []
    if text.get("model_type"):
        parts.append(
            f"a {prose(text['model_type'])} language model ({prose(text.get('num_hidden_layers'))} "
            f"layers of width {prose(text.get('hidden_size'))})"
        )
    if vision.get("model_type"):
        side = prose(vision.get("image_size"))
        parts.append(f"a {prose(vision['model_type'])} tower ({side} x {side} pixels)")
    if made.config.get("projector"):
        parts.append(f"a projector of kind {prose(made.config['projector'])}")
    size = ""
    if made.parameters is not None:
        size = f" It has {made.parameters:,} parameters ({prose(', '.join(made.dtypes))})."
    first = f"A visual language model: it reads text with any number of images.{size}"
    lines = [first, ""]
    if parts:
        lines += [f"It consists of {'; '.join(parts)}.", ""]
    else:
        lines += ["Its config can't be read in the store.", ""]
    for part, source in trained.bases.items():
        where = one_line(source).rstrip("/").rpartition("/")[2]
        lines += [f"- The {part.replace('_', ' ')} began as a copy of {code(where)}."]
    if trained.bases:
        lines += [""]
    return lines


def _metadata(
    version: Version, made: Architecture, trained: Training, results: Results, layout: str
) -> dict[str, Any]:
    """Return the front matter. The weights' licence is not recorded, and not made up either."""
    values: dict[str, Any] = {
        **_LICENCE,
        "library_name": LIBRARIES[layout],
        "pipeline_tag": "image-text-to-text",
    }
    if trained.hub_bases:
        values["base_model"] = trained.hub_bases
    if trained.corpora:
        values["datasets"] = list(dict.fromkeys(corpus.name for corpus in trained.corpora))
    kinds = [(made.config.get(part) or {}).get("model_type") for part in _CONFIGS]
    values["tags"] = ["vila", "visual-language-model", "multi-image", *(k for k in kinds if k)]
    by_task: dict[str, list[Measured]] = {}
    for row in results.rows:
        by_task.setdefault(row.task, []).append(row)
    if by_task:
        found = [_task_result(task, rows) for task, rows in by_task.items()]
        values["model-index"] = [{"name": version.name, "results": found}]
    return values


_LICENCE = {"license": "other", "license_name": "not-stated"}
_CONFIGS = ("text_config", "vision_config")


def _task_result(task: str, rows: list[Measured]) -> dict[str, Any]:
    return {
        "task": {"type": "image-text-to-text"},
        "dataset": {"type": task, "name": task},
        "metrics": [_metric(row) for row in rows],
    }


def _metric(row: Measured) -> dict[str, Any]:
    """Return a metric with what makes it readable: shots, interval, chance, blind baseline."""
    known = {
        "shots": row.shots,
        "interval_95": [_scaled(row, end) for end in row.interval] if row.interval else None,
        "blind": None if row.blind is None else _scaled(row, row.blind),
        "chance": None if row.chance is None else _scaled(row, row.chance),
        "questions": row.questions,
    }
    return {
        "type": row.metric,
        "name": f"{row.metric}, {row.shots}-shot",
        "value": _scaled(row, row.value),
        "args": {name: value for name, value in known.items() if value is not None},
    }


def _scaled(row: Measured, value: float) -> float:
    return round(value * row.scale, 4)
