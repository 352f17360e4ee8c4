"""Cards and other Markdown of others, as HTML that does nothing."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from vila_ops.web.markdown import MOST_CHARACTERS, markdown, split

ALLOWED = {
    *("p", "a", "em", "strong", "s", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "br"),
    *(
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "div",
        "span",
    ),
}


class Seen(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](vbscript:x) [y](data:text/html,<script>alert(1)</script>)",
        "<javascript:alert(1)>",
        "![x](https://elsewhere.example/pixel.png)",
        "![x](data:image/svg+xml;base64,AAAA)",
        "[x](//elsewhere.example)",
        "[x](https://ok.example 'a\" onmouseover=alert(1) b')",
        '[x](https://ok.example/"onmouseover="alert(1))',
        "[ref]\n\n[ref]: javascript:alert(1)",
        "`<b onclick=x>`\n\n```<script>\n</script>\n```",
        "| a |\n|--:|\n| <iframe src=x> |",
        "# <svg onload=alert(1)>",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "[" * 5000 + "](" * 5000,
        ">" * 3000 + " deep",
        "*" * 20000,
    ],
)
def test_nothing_of_it_runs_or_is_loaded(text: str) -> None:
    for tag, attributes in Seen(markdown(text)).tags:
        assert tag in ALLOWED
        assert set(attributes) <= {"href", "rel", "class", "tabindex", "role", "aria-label"}
        if tag == "a":
            assert str(attributes["href"]).startswith(("https://", "http://"))
            assert attributes["rel"] == "noreferrer noopener nofollow"


def test_a_card_keeps_its_shape() -> None:
    text = "---\nlicense: mit\n---\n# Title\n\n[site](https://ok.example)\n\n"
    text += "| a | b |\n|---|--:|\n| 1 | 2 |\n"
    html = markdown(text)
    assert split(text)[0] == "license: mit"
    assert "license" not in html
    assert "<h3>Title</h3>" in html
    assert '<a href="https://ok.example" rel="noreferrer noopener nofollow">site</a>' in html
    assert '<td class="right">2</td>' in html
    assert "style=" not in html


def test_a_long_card_is_cut() -> None:
    html = markdown("word " * MOST_CHARACTERS)
    assert "The rest is left out" in html
    assert len(html) < 2 * MOST_CHARACTERS


def test_front_matter_without_an_end_is_text() -> None:
    assert split("---\nnever ends") == ("", "---\nnever ends")
