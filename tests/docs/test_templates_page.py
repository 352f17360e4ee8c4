"""The page on templates shows what the code writes: its examples are made here."""

from __future__ import annotations

from pathlib import Path

from tests.data.make import CHATML_JINJA, metaspace_chat
from vila_core.data.encode import Encoder
from vila_core.data.sample import Image, Sample, Text, make_sample
from vila_core.data.templates import NAMES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "templates.md"
START, END = "<!-- examples: made by tests/docs/test_templates_page.py -->\n", "<!-- end -->\n"

SAMPLES: dict[str, Sample] = {
    "caption": make_sample("a/0/000000", "caption", [Image(0), Text("a red circle")], [b"x"]),
    "interleaved": make_sample(
        "a/0/000000",
        "interleaved",
        [Image(0), Text("A cat. "), Image(1), Text("A dog.")],
        [b"x", b"y"],
    ),
    "conversation": make_sample(
        "a/0/000000",
        "conversation",
        [
            Image(0, "user"),
            Text("\nWhat is it?", "user"),
            Text("A cat", "assistant"),
            Text("And ", "user"),
            Image(1, "user"),
            Text("?", "user"),
            Text("A dog", "assistant"),
        ],
        [b"x", b"y"],
    ),
    "text-only": make_sample(
        "a/0/000000", "text-only", [Text("1 plus 1", "user"), Text("2", "assistant")], []
    ),
}


def shown(encoder: Encoder, sample: Sample) -> str:
    """Return a sample as text, what carries loss in ⟦ ⟧, line breaks as ↵ at their ends."""
    text, marks = encoder.lay_out(sample)
    image = "<image>"
    out, inside = "", False
    at = 0
    while at < len(text):
        if bool(marks[at]) != inside:
            inside = not inside
            out += "⟦" if inside else "⟧"
        width = len(image) if text.startswith(image, at) else 1
        out += text[at : at + width].replace("\n", "↵\n")
        at += width
    return out.rstrip("\n") + ("⟧" if inside else "")


def examples() -> str:
    """Return the block of the page."""
    blocks = []
    for name in NAMES:
        encoder = Encoder(metaspace_chat(CHATML_JINJA), name, 9_999, 1)
        of = " (here a ChatML one)" if name == "tokenizer" else ""
        lines = [f"### `{name}`{of}\n\n"]
        for kind, sample in SAMPLES.items():
            lines += [f"{kind}:\n\n```text\n{shown(encoder, sample)}\n```\n\n"]
        blocks.append("".join(lines))
    return "".join(blocks)


def test_the_examples_are_what_the_code_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    block = page.partition(START)[2].partition(END)[0].lstrip("\n")
    assert block == examples()


def test_every_template_has_its_example() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"### `{name}`" in page
