"""Draw what a command prints as an SVG.

For example: `python docs/images/terminal.py OUT.svg vila show quickstart`.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path

CHARACTER, LINE, MARGIN = 8.4, 19, 18


def draw(command: str, output: str) -> str:
    """Return an SVG of a terminal that shows a command and its output."""
    lines = [f"$ {command}", *output.rstrip().splitlines()]
    width = round(CHARACTER * max(map(len, lines))) + 2 * MARGIN
    height = LINE * len(lines) + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * (n + 0.75):.0f}" fill="{_color(line, n)}" '
        f'xml:space="preserve">{html.escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-size="14" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#16181d"/>\n{rows}\n</svg>\n'
    )


def _color(line: str, number: int) -> str:
    if number == 0:
        return "#7ee787"
    heading = line.startswith(("task ", "accuracy", "registered", "quickstart"))
    return "#e6c07b" if heading else "#d7dae0"


if __name__ == "__main__":
    target, *arguments = sys.argv[1:]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "84"}
    )
    Path(target).write_text(draw(" ".join(arguments), done.stdout), encoding="utf-8")
