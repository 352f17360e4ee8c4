"""Markdown of others as HTML: no tags of theirs, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

MOST_CHARACTERS = 200_000


def markdown(text: str, *, below: int = 2) -> Markup:
    """Return Markdown as HTML; its headings stand below headings of the level `below`.

    Links lead to http and https alone and tell nothing of us; of images the text is left, as they
    could only be loaded from elsewhere. YAML in front is left out: see `front_matter`.
    """
    body = split(text)[1]
    cut = ""
    if len(body) > MOST_CHARACTERS:
        body, cut = body[:MOST_CHARACTERS], "<p>(The rest is left out.)</p>"
    html = _parser().render(body, {"below": below})
    return Markup(html + cut)


def split(text: str) -> tuple[str, str]:
    """Return the YAML in front of a card, and the text after it."""
    if text.startswith("---\n"):
        front, end, body = text[4:].partition("\n---\n")
        if end:
            return front, body
    return "", text


@functools.cache
def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "linkify": False, "typographer": False})
    made.enable(["table", "strikethrough"])
    made.validateLink = _is_link
    made.add_render_rule("image", _image)
    made.add_render_rule("link_open", _link)
    made.add_render_rule("heading_open", _heading)
    made.add_render_rule("heading_close", _heading)
    made.add_render_rule("fence", _code)
    made.add_render_rule("code_block", _code)
    made.add_render_rule("table_open", _table)
    made.add_render_rule("th_open", _cell)
    made.add_render_rule("td_open", _cell)
    made.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return made


def _is_link(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme.lower() in ("http", "https")
    except ValueError:
        return False


def _image(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f'<span class="soft">[image: {escape(tokens[at].content)}]</span>'


def _link(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    href = str(tokens[at].attrs.get("href", ""))
    return f'<a href="{escape(href)}" rel="noreferrer noopener nofollow">'


def _heading(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    level = min(6, int(tokens[at].tag[1]) + int(env.get("below", 0)))
    end = "/" if tokens[at].nesting < 0 else ""
    return f"<{end}h{level}>" + ("\n" if end else "")


def _table(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    env["tables"] = env.get("tables", 0) + 1
    name = f"Table {env['tables']} of this text"
    lead = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
    return f'{lead}<table class="narrow">\n'


def _cell(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    aligned = "right" in str(tokens[at].attrs.get("style", ""))  # no style attributes: the CSP
    kind = ' class="right"' if aligned else ""
    return f"<{tokens[at].tag}{kind}>"


def _code(renderer: Any, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f'<pre tabindex="0"><code>{escape(tokens[at].content)}</code></pre>\n'
