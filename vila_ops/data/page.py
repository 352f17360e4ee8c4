"""The page of `vila data inspect`: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vila_ops.data.charts import bar, draw
from vila_ops.data.inspect import CorpusFacts, Run, Shown

_CSS = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #d8dde3;
  --back: #ffffff; --card: #f6f8fa; --fill: #2f6db5; --loss: #fff0b8; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #343b44;
  --back: #14181d; --card: #1c2229; --fill: #6ba4e7; --loss: #584a12; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--back); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } p { margin: .25rem 0 .75rem; color: var(--soft); }
nav a { margin-right: 1rem; } a { color: var(--fill); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .9rem .2rem 0; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .left { text-align: left; }
td.wide { text-align: left; white-space: normal; min-width: 18rem; overflow-wrap: anywhere; }
.bar { display: inline-block; width: 9rem; height: .6rem; background: var(--card);
  border: 1px solid var(--line); vertical-align: middle; }
.bar span { display: block; height: 100%; background: var(--fill); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; }
svg { width: 100%; display: block; } svg rect { fill: var(--fill); }
svg text { fill: var(--soft); font-size: 11px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem; min-width: 0; }
article header { font-size: .85rem; color: var(--soft); margin-bottom: .5rem;
  overflow-wrap: anywhere; }
article header b { color: var(--ink); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto;
  font: 13px/1.6 ui-monospace, monospace; color: var(--soft); }
.text mark { background: var(--loss); color: var(--ink); border-radius: .15rem; }
.text img { vertical-align: middle; margin: .15rem; max-width: 100%; min-width: 48px;
  border-radius: .25rem; image-rendering: auto; }
details { margin-top: .5rem; font-size: .85rem; color: var(--soft); }
details pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .25rem 0 0; }
.legend mark { background: var(--loss); color: var(--ink); padding: 0 .25rem; }
"""


def render(title: str, corpora: Sequence[CorpusFacts], *, seen_by: str | None = None) -> str:
    """Return the page. `seen_by` names the model whose view of the images is shown."""
    links = " ".join(f'<a href="#{escape(one.name)}">{escape(one.name)}</a>' for one in corpora)
    images = (
        f"Images are cut and resized as {escape(seen_by)} gets them."
        if seen_by
        else "Images are shown as they are stored, only smaller."
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<nav>{links}</nav>",
        '<p class="legend">Samples are written out as the model reads them: text that '
        f"<mark>bears loss</mark>, and text that does not. {images}</p>",
        _mixture(corpora),
        *(_corpus(one) for one in corpora),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _mixture(corpora: Sequence[CorpusFacts]) -> str:
    head = ("corpus", "samples", "images", "text tokens", "supervised", "share of text tokens")
    total = sum(one.manifest["text_tokens"] for one in corpora) or 1
    rows = []
    for one in corpora:
        tokens, supervised = one.manifest["text_tokens"], one.manifest["supervised"]
        rows.append(
            [
                escape(one.name),
                f"{one.manifest['samples']:,}",
                f"{one.manifest['images']:,}",
                f"{tokens:,}",
                f"{supervised:,} ({supervised / max(tokens, 1):.1%})",
                f"{tokens / total:.1%} {bar(tokens / total)}",
            ]
        )
    return "<h2>Corpora</h2>" + _table(head, rows)


def _corpus(one: CorpusFacts) -> str:
    manifest = one.manifest
    size = sum(shard["size"] for shard in manifest["shards"])
    facts = [
        f"format {manifest.get('format', 'unknown')}",
        f"template {manifest['template']}",
        f"{_count(len(manifest['shards']), 'shard')}, {size / 2**20:,.1f} MiB",
        f"licence {manifest['licence']}" if manifest.get("licence") else "",
        f"index {manifest['index_sha256'][:12]}",
    ]
    charts = "".join(draw(chart) for chart in one.charts)
    return "".join(
        [
            f'<h2 id="{escape(one.name)}">{escape(one.name)}</h2>',
            f"<p>{escape(' · '.join(fact for fact in facts if fact))}</p>",
            _funnel(one.report) if one.report else "",
            f'<h3>Lengths and images</h3><div class="charts">{charts}</div>',
            f"<h3>{len(one.gallery)} samples</h3>"
            f'<div class="gallery">{"".join(_card(sample) for sample in one.gallery)}</div>',
            _aside(one.set_aside),
        ]
    )


def _funnel(report: Mapping[str, Any]) -> str:
    """What became of the records: every one of them is in one row."""
    whole = report["read"] + report["extra_samples"] or 1
    rows: list[tuple[str, int]] = [("kept", report["kept"])]
    if report["not_sampled"]:
        rows.append(("not sampled", report["not_sampled"]))
    rows += [(f"set aside: {reason}", count) for reason, count in report["set_aside"].items()]
    cells = [
        [escape(name), f"{count:,}", f"{count / whole:.1%} {bar(count / whole)}"]
        for name, count in rows
    ]
    extra = f", {report['extra_samples']:,} more samples than records" * bool(
        report["extra_samples"]
    )
    title = f"{report['read']:,} records read{extra}"
    return f"<h3>{title}</h3>" + _table(("", "samples", "share"), cells)


def _card(sample: Shown) -> str:
    meta = "\n".join(f"{name}: {value}" for name, value in sample.meta.items() if value is not None)
    more = f"<details><summary>source</summary><pre>{escape(meta)}</pre></details>" if meta else ""
    counts = (
        f"{sample.kind}, {sample.tokens:,} text tokens, {sample.supervised:,} supervised, "
        f"{_count(sample.images, 'image')}"
    )
    text = "".join(_run(run) for run in sample.runs)
    return (
        f"<article><header><b>{escape(sample.key)}</b><br>{escape(counts)}</header>"
        f'<div class="text">{text}</div>{more}</article>'
    )


def _run(run: Run) -> str:
    if run.text is None:
        return f'<img alt="image" src="{run.image}">'
    text = escape(run.text)
    return f"<mark>{text}</mark>" if run.loss else text


def _aside(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    cells = [
        [escape(row["reason"]), escape(row["where"]), escape(row["detail"])]
        for row in sorted(rows, key=lambda row: row["reason"])
    ]
    lines = "".join(
        f'<tr><td class="left">{reason}</td><td class="left">{where}</td>'
        f'<td class="wide">{detail}</td></tr>'
        for reason, where, detail in cells
    )
    head = '<tr><th>reason</th><th class="left">where</th><th class="left">what</th></tr>'
    return (
        f"<h3>Set aside, the first of each reason</h3>"
        f'<div class="scroll"><table>{head}{lines}</table></div>'
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{lines}</table></div>'
