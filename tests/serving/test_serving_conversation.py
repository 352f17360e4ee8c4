"""Messages are laid out as `vila ask` and training lay out the same things."""

from __future__ import annotations

from typing import Any

import pytest
from servers import user

from vila_core.data.asking import Layout
from vila_core.eval.adapters.conversation import parts
from vila_ops.ask import lay_out
from vila_ops.serving.conversation import MARK, Conversation, laid_out, read
from vila_ops.serving.problem import ApiError

IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


def said(*messages: Any, scene: bool = False) -> Conversation:
    return read(messages, str, scene=scene, most=99)


@pytest.mark.parametrize("template", ["miniature", "vicuna_v1"])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_images_in_front_stand_as_in_vila_ask(template: str, images: int) -> None:
    question = "q color of circle"
    found = said(user(*[IMAGE] * images, question), scene=template == "miniature")
    assert Layout(template, None).lay_out(found.exchanges) == lay_out(question, images, template)
    assert len(found.urls) == images


@pytest.mark.parametrize(
    "text",
    [
        "scene <image> . q color of circle",
        "<image>\nWhat is this?",
        "One: <image> two: <image>\nwhich?",
        "What is this? <image>",
        "scene <image> . q color of circle a red . scene <image> . q color of circle",
    ],
)
def test_what_our_client_takes_apart_is_put_together(text: str) -> None:
    sent = [None if part["type"] == "image" else part["text"] for part in parts(text)]
    assert laid_out(sent, scene=False) == text
    assert text.startswith(MARK) or laid_out(sent, scene=True) == text


def test_neighbours_are_joined() -> None:
    found = said(
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        user("Hello"),
        user(IMAGE, "What?"),
        {"role": "assistant", "content": "A cat"},
        {"role": "assistant", "content": "and a dog."},
        user("Sure?"),
    )
    assert found.system == "Be kind.\nBe brief."
    assert found.exchanges == (
        ("Hello\n<image>\nWhat?", "A cat\nand a dog."),
        ("Sure?", None),
    )


def test_system_text_stands_where_the_template_has_it() -> None:
    exchanges = [("Hello", None)]
    vicuna = Layout("vicuna_v1", None)
    assert vicuna.takes_system
    assert vicuna.lay_out(exchanges, system="Be kind.") == "Be kind. USER: Hello ASSISTANT:"
    assert vicuna.lay_out(exchanges).startswith("A chat between")
    chatml = Layout("chatml", None).lay_out(exchanges, system="Be kind.")
    assert chatml.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello")
    assert not Layout("miniature", None).takes_system
    assert not Layout("plain", None).takes_system


def test_the_texts_are_cleaned() -> None:
    found = read([user("a <x> b")], lambda text: text.replace("<x>", "X"), scene=False, most=1)
    assert found.exchanges == (("a X b", None),)
    with pytest.raises(ApiError, match="2 messages, of which 1 are allowed"):
        read([user("a"), user("b")], str, scene=False, most=1)
