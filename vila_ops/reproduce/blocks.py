"""A report as blocks, written as Markdown or as one HTML page that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_CSS = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #d8dde3;
  --back: #ffffff; --card: #f6f8fa; --link: #2f6db5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #343b44;
  --back: #14181d; --card: #1c2229; --link: #6ba4e7; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--back); font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; }
p, li { max-width: 52rem; } p { margin: .4rem 0 .8rem; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0 .4rem; }
th, td { text-align: right; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
th + th, td + td { white-space: nowrap; }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: flex-start; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; border-radius: .4rem;
  border: 1px solid var(--line); }
code, pre { font: 13px/1.5 ui-monospace, monospace; background: var(--card); }
code { padding: .05rem .25rem; border-radius: .2rem; overflow-wrap: anywhere; }
pre { padding: .75rem; overflow-x: auto; border-radius: .4rem; }
"""


@dataclass(frozen=True)
class Heading:
    """A title of level 1, or a section of level 2."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; `*x*`, `**x**` and backquotes mean what they mean in Markdown."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to be typed."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; its first column is text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Beside:
    """Tables next to each other where there is room."""

    tables: Sequence[Table]


@dataclass(frozen=True)
class Figure:
    """A plot; `name` is that of its file beside the Markdown."""

    name: str
    svg: str
    alt: str


Block = Heading | Text | Code | Table | Beside | Figure


def markdown(blocks: Sequence[Block]) -> str:
    """Return the blocks as Markdown; figures are files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def page(title: str, blocks: Sequence[Block]) -> str:
    """Return the blocks as one HTML page, plots inside."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head>"
        f"<body>{''.join(_html(block) for block in blocks)}</body></html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Text():
            return block.text
        case Code():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Figure():
            return f"![{block.alt}]({block.name}.svg)"
        case Beside():
            return "\n\n".join(_markdown(table) for table in block.tables)
        case Table():
            rows = [block.head, ["---", *["---:"] * (len(block.head) - 1)], *block.rows]
            lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
            title = f"**{block.title}**\n\n" if block.title else ""
            return title + "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or " "


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
        case Text():
            return f"<p>{_inline(block.text)}</p>"
        case Code():
            return f"<pre>{escape(block.text)}</pre>"
        case Figure():
            return f"<figure>{block.svg}</figure>"
        case Beside():
            return f'<div class="beside">{"".join(_html(table) for table in block.tables)}</div>'
        case Table():
            head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
            rows = "".join(
                f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>"
                for row in block.rows
            )
            title = f"<caption>{_inline(block.title)}</caption>" if block.title else ""
            return f'<div class="scroll"><table>{title}<tr>{head}</tr>{rows}</table></div>'


def _inline(text: str) -> str:
    result = escape(text, quote=False)
    result = re.sub(r"`([^`]+)`", r"<code>\1</code>", result)
    result = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", result)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", result)
