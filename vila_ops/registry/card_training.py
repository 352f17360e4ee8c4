"""Sections of a model card: how the version was trained, on what, and its lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.registry import Version
from vila_ops.registry.architecture import Architecture
from vila_ops.registry.escape import code, one_line, prose, table
from vila_ops.registry.trained import PARTS, Corpus, Step, Training


def recipe(trained: Training) -> list[str]:
    """Tell how a version was trained, stage by stage."""
    lines = ["## How it was trained", ""]
    if not trained.run:
        lines += ["The record of its run is no longer in the store; the lineage below is.", ""]
    else:
        name = code(trained.run.get("recipe") or trained.run.get("name"))
        lines += [f"Recipe {name}, run {code(trained.run.get('run_id'))}.", ""]
    steps = [step for step in trained.steps if step.trains]
    if not steps:
        return lines
    lines += table(
        ("stage", "trained", "frozen", "steps", "tokens", "images", "learning rate", "last loss"),
        ([*_stage(step)] for step in steps),
    )
    lines += [""]
    mixtures = [step for step in steps if step.mixture]
    if mixtures:
        lines += ["Shares of the corpora, as asked and as they came out:", ""]
        lines += table(
            ("stage", "corpus", "by", "asked", "realised", "epochs"),
            (row for step in mixtures for row in _mixture(step)),
        )
        lines += [""]
    return lines


def _stage(step: Step) -> Iterator[str]:
    yield prose(step.task)
    alone = step.stage in ("language_model", "vision_tower")  # its model has no other part
    frozen = [] if alone else [part for part in PARTS if part not in step.trains]
    lora = step.config.get("lora")
    yield prose(", ".join(step.trains)) + (" (by LoRA)" if lora else "")
    yield prose(", ".join(frozen)) or "-"
    yield _count(step.steps)
    yield _count(step.metrics.get("tokens"))
    yield _count(step.metrics.get("images"))
    yield _number((step.config.get("train") or {}).get("lr"))
    yield _number(step.metrics.get("loss"))


def _mixture(step: Step) -> Iterator[list[str]]:
    total = sum(share for share in step.mixture.values() if isinstance(share, int | float)) or 1.0
    for name, share in step.mixture.items():
        yield [
            prose(step.task),
            prose(name),
            prose(step.config.get("mixture_by") or "tokens"),
            _percent(share / total),
            _percent(step.realised(name)),
            _number(step.metrics.get(f"epochs/{name}")),
        ]


def data(trained: Training) -> list[str]:
    """Tell which corpora the version saw, with sizes, licences and digests."""
    lines = ["## Data", ""]
    if not trained.corpora:
        return [*lines, "No corpus is recorded.", ""]
    rows = (
        [
            prose(corpus.name),
            prose(corpus.facts.get("format") or "-"),
            _count(corpus.facts.get("samples")),
            _count(corpus.facts.get("images")),
            _count(corpus.facts.get("text_tokens")),
            prose(corpus.facts.get("licence") or "not stated"),
            code(corpus.digest[:16]) if corpus.digest else "-",
        ]
        for corpus in trained.corpora
    )
    columns = ("corpus", "format", "samples", "images", "text tokens", "licence", "manifest sha256")
    lines += [*table(columns, rows), ""]
    lines += [
        "The licence is that of the corpus as its builder stated it; samples may bring their own.",
        "",
    ]
    for corpus in trained.corpora:
        if not corpus.facts:
            lines += [
                f"- {prose(corpus.name)} is read from {code(_place(corpus))}; {_state(corpus)}"
            ]
    for sha256 in trained.data:
        lines += [f"- Prepared data: {code(sha256)}"]
    versions: Mapping[str, Mapping[str, str]] = trained.run.get("dvc") or {}
    for name, version in sorted(versions.items()):
        facts = ", ".join(f"{key} {value}" for key, value in sorted(version.items()))
        lines += [f"- Version of {prose(name)}: {prose(facts)}"]
    return [*lines, ""]


def _place(corpus: Corpus) -> str:
    """Return where a corpus is, without the folders of somebody's machine."""
    place = one_line(corpus.place).rstrip("/")
    return place if "://" in place or place.startswith("dvc:") else place.rpartition("/")[2]


def _state(corpus: Corpus) -> str:
    if corpus.digest:
        return "the digest above is that of its state when it was read."
    return "its manifest can't be read in the store."


def lineage(version: Version, trained: Training, made: Architecture) -> list[str]:
    """Tell the digests of all that led to the version."""
    lines = ["## Lineage", ""]
    known = {
        "weights and processor": version.artifact.sha256,
        "run": version.run_id,
        "config of the run": version.lineage.get("config_digest"),
        "code of the run": version.lineage.get("code_digest"),
        "key of the registration": version.key,
        "registered": f"{version.created_at} by {version.created_by}",
    }
    lines += [f"- {what}: {code(value)}" for what, value in known.items() if value]
    lines += [""]
    if trained.steps:
        rows = ([prose(step.task), code(step.key), _outputs(step)] for step in trained.steps)
        lines += [*table(("task", "key", "outputs"), rows), ""]
    if made.files:
        rows = ([code(path), code(sha256)] for path, sha256 in sorted(made.files.items()))
        lines += [*table(("file", "sha256"), rows), ""]
    return lines


def _outputs(step: Step) -> str:
    found = [f"{prose(name)} {code(str(sha)[:16])}" for name, sha in sorted(step.outputs.items())]
    return ", ".join(found) or "-"


def _count(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _number(value: object) -> str:
    return prose(f"{value:.4g}") if isinstance(value, int | float) else "-"


def _percent(value: object) -> str:
    return f"{100 * value:.1f}%" if isinstance(value, int | float) else "-"
