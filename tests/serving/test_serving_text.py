"""Pieces of an answer make up the text that decoding all its tokens gives, cut at a stop text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.make import byte_level_chat, metaspace_chat
from vila_core.miniature.words import build_tokenizer
from vila_ops.serving.text import AnswerText

TOKENIZERS = {
    "words": build_tokenizer(),
    "bytes": byte_level_chat(),
    "metaspace": metaspace_chat(),
}
SAID = "Grüße, 世界! 🙂🙂  two  blanks\n\nand a line; a.b.c.STOP and more"


def pieces(kind: str, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    text = AnswerText(TOKENIZERS[kind], stops)
    found = []
    for token in ids:
        found.append(text.add(token))
        if text.stopped:
            break
    found.append(text.finish())
    return found, text.stopped


def whole(kind: str, ids: list[int]) -> str:
    return TOKENIZERS[kind].decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_real_text_comes_back(kind: str) -> None:
    ids = TOKENIZERS[kind](SAID, add_special_tokens=False)["input_ids"]
    found, stopped = pieces(kind, ids)
    assert "".join(found) == whole(kind, ids).strip()
    assert not stopped
    assert sum(map(bool, found)) > 20  # it does come in pieces
    assert not any("\ufffd" in piece for piece in found)  # and in whole characters


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), st.integers(0, 2**32), st.integers(1, 40))
def test_any_tokens_give_the_text_of_all(kind: str, seed: int, length: int) -> None:
    some = random.Random(seed)
    ids = [some.randrange(len(TOKENIZERS[kind])) for _ in range(length)]
    found, _ = pieces(kind, ids)
    text = whole(kind, ids).strip()
    if "\ufffd\ufffd" not in text:  # broken UTF-8 may be cut into broken pieces elsewhere
        assert "".join(found) == text
    begun = "".join(found[:1])
    assert not begun or not begun[0].isspace()


@settings(max_examples=150, deadline=None)
@given(
    st.text("ab. \n", min_size=1, max_size=40),
    st.lists(st.text("ab. \n", min_size=1, max_size=4), max_size=3),
)
def test_stop_texts_cut_wherever_tokens_end(said: str, stops: list[str]) -> None:
    ids = TOKENIZERS["bytes"](said, add_special_tokens=False)["input_ids"]
    found, stopped = pieces("bytes", ids, tuple(stops))
    expected = said
    # What is said first counts: a stop text ends the answer at the token that completes it.
    for end in range(1, len(ids) + 1):
        so_far = whole("bytes", ids[:end])
        places = [so_far.find(stop) for stop in stops if stop in so_far]
        if places:
            expected = so_far[: min(places)]
            break
    assert "".join(found) == expected.strip()
    assert stopped == any(stop in said for stop in stops)


def test_what_may_become_a_stop_text_is_held_back() -> None:
    ids = TOKENIZERS["bytes"]("one STO", add_special_tokens=False)["input_ids"]
    text = AnswerText(TOKENIZERS["bytes"], ("STOP",))
    shown = "".join(text.add(token) for token in ids)
    assert shown == "one"
    assert text.finish() == " STO"
