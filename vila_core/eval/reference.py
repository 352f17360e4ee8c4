"""The page that says of each benchmark what is read, asked and scored: made from the benchmarks.

`python -m vila_core.eval.reference` writes it; a test holds the committed page against it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from vila_core.eval.benchmark import NAMES, TEXT_ONLY, Benchmark, FileSpec, benchmark

PAGE = Path("docs/reference/benchmarks-supported.md")

_HEAD = """\
# Supported benchmarks

<!-- written by `python -m vila_core.eval.reference` -->

Each benchmark reads its official files from a folder or a store (`s3://…`), asks as LLaVA-1.5 and
VILA ask, and scores as the official scorer does. This page is made from the code. How the metrics
are computed stands in [benchmark-metrics.md](benchmark-metrics.md).

- `↵` is a line break in prompts, `{…}` what the files hold (in file names: one of these), `…` the
  rest of a file name.
- Prompt and post-processing are frozen: a change of either raises the version, which stands in
  every result.
- Answers are decoded greedily, up to the end token or the number of new tokens below. In the plain
  layout they also end at a line break; there, demonstrations stand in lines before the question,
  each its prompt and its answer.
- Values with the unit % are shares (0 to 1) in results, and CIDEr is CIDEr; papers print 100 times
  both.
- A split without public answers gets no score; the official submission file is written beside the
  records.
"""


def page() -> str:
    """Return the whole page."""
    there = [benchmark(name) for name in NAMES if _is_there(name)]
    parts = [_HEAD, _table(there), *(_section(each) for each in there)]
    return "\n".join([*parts, _TEXT_ONLY])


def _is_there(name: str) -> bool:
    module = f"vila_core.eval.benchmarks.{name}"
    return name not in TEXT_ONLY and importlib.util.find_spec(module) is not None


def _table(benchmarks: list[Benchmark]) -> str:
    rows = [
        "| benchmark | name | headline | splits | demonstrations | judge | submission |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in benchmarks:
        splits = ", ".join(f"**{name}**" if not at else name for at, name in enumerate(each.splits))
        cells = (
            f"[{each.title}](#{_anchor(each.title)})",
            f"`{each.name}`",
            f"`{each.headline}`, {each.headline_unit}",
            splits,
            each.train_split or "none",
            "yes" if each.judged else "no",
            "yes" if each.submission else "no",
        )
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    rows += ["", "The default split is bold; demonstrations come from the split named.", ""]
    return "\n".join(rows)


def _section(each: Benchmark) -> str:
    lines = [
        f"## {each.title}",
        "",
        f"`{each.name}`, version {each.version}. Source: {each.source}.",
        "",
        "| file | splits | holds |",
        "|---|---|---|",
        *(_file(spec) for spec in each.files),
        "",
        f"- Prompt: {prose(each.prompt)}",
        f"- Longest answer: {each.max_new_tokens} new tokens",
    ]
    if each.scoring:
        lines.append(f"- Scoring: {prose(each.scoring)}")
    lines.append(f"- Headline: `{each.headline}` ({each.headline_unit})")
    if each.rubric:
        lines.append(f"- Judge of the published numbers: {each.rubric.published}")
    if each.likelihood:
        lines.append("- The options can also be ranked by likelihood.")
    if not each.blind:
        lines.append("- The baseline without images is not asked: it would have no meaning.")
    if each.disagreements:
        lines.append(f"- Known disagreements: {prose(each.disagreements)}")
    return "\n".join([*lines, ""])


def _file(spec: FileSpec) -> str:
    splits = ", ".join(spec.splits) or "all"
    return f"| `{_cell(spec.name)}` | {splits} | {_cell(spec.holds)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def prose(text: str) -> str:
    """Return a text in which `<…>` outside of code is shown, and not taken for HTML."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _anchor(title: str) -> str:
    """Return the anchor that Markdown renderers give a heading."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


_TEXT_ONLY = f"""\
## Text: {", ".join(name.upper() for name in TEXT_ONLY)}

Run by lm-evaluation-harness, with the model as an `lm_eval` model class; tasks, prompts and scores
are the harness's.
"""


def main() -> None:
    """Write the page below the current folder."""
    if not PAGE.parent.is_dir():
        sys.exit(f"{PAGE.parent}: there is no such folder; run this in the repository's root")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
