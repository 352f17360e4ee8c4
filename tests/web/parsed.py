"""A page as tests read it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

OURS = re.compile(r"/(?!/)|\?")


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag or attribute that could run or ask."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        assert len(self.ids) == len(set(self.ids)), "an id stands for one thing"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert tag not in ("iframe", "style", "object", "embed", "base")
        if tag == "script":
            assert re.fullmatch(
                r"/static/(js|vendor/\w+)/[\w.]+\.js|/static/\w+\.js", given["src"] or ""
            )
            assert set(given) <= {"src", "type", "defer"}
        if tag == "img":
            assert (given["src"] or "").startswith("/samples/"), "images are ours, encoded anew"
            assert given.get("alt") is not None
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("style", "srcdoc", "srcset")
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "action", "formaction", "data-curves"):
                assert value is not None
                if not value.startswith("#"):
                    assert OURS.match(value), "nothing is asked of anybody else"
                    if name == "href" and tag == "a":
                        self.links.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data
