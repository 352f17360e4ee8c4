"""What carries loss, as text: per data type, template and kind of tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.data.make import (
    CHATML_JINJA,
    LLAMA_3_JINJA,
    byte_level_chat,
    metaspace_chat,
)
from vila_core.data.asking import Layout
from vila_core.data.chat import ChatTemplate, TemplateRefuses
from vila_core.data.encode import IGNORE, Encoded, Encoder
from vila_core.data.sample import Image, Kind, Part, Sample, Text, make_sample, split_tags
from vila_core.data.templates import TEMPLATES, TOKENIZER
from vila_core.errors import UserError
from vila_ops.ask import end_ids, lay_out

IMAGE_ID, PER_IMAGE = 99_999, 3
TOKENIZERS: dict[str, Callable[[str | None], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level_chat,
    "metaspace": metaspace_chat,
}
VICUNA_JINJA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} "
    "{% elif m['role'] == 'system' %}{{ m['content'] }} "
    "{% else %}ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
CHATS = {
    "vicuna_v1": (None, "</s>"),
    "vicuna_v1_no_system": (None, "</s>"),
    "llama_3": (None, "<|eot_id|>"),
    "chatml": (None, "<|im_end|>"),
    "plain": (None, "</s>"),
    "plain_line": (None, "\n"),
    "tokenizer/chatml": (CHATML_JINJA, "<|im_end|>"),
    "tokenizer/llama_3": (LLAMA_3_JINJA, "<|eot_id|>"),
    "tokenizer/vicuna": (VICUNA_JINJA, "</s>"),
}
"""Layouts of conversations: their chat template, and what ends an answer."""


def make(layout: str, tokenizer: str) -> Encoder:
    chat = CHATS[layout][0] if layout in CHATS else None
    return Encoder(TOKENIZERS[tokenizer](chat), layout.split("/")[0], IMAGE_ID, PER_IMAGE)


def sample(kind: Kind, *parts: Part) -> Sample:
    images = [b"x"] * sum(isinstance(part, Image) for part in parts)
    return make_sample("a/0/000000", kind, parts, images)


def talk(*turns: str, system: str = "") -> Sample:
    parts: list[Part] = [Text(system, "system")] if system else []
    images = 0
    for number, turn in enumerate(turns):
        found, images = split_tags(turn, "assistant" if number % 2 else "user", images)
        parts += found or [Text(turn, "assistant" if number % 2 else "user")]
    return sample("conversation" if images else "text-only", *parts)


def learnt(encoder: Encoder, encoded: Encoded) -> list[str]:
    """Return each run of labels as text: this is what the loss sees."""
    supervised = np.concatenate([[False], encoded.labels != IGNORE, [False]])
    edges = np.flatnonzero(np.diff(supervised)).reshape(-1, 2)
    tokenizer = encoder.tokenizer
    return [
        str(tokenizer.decode(encoded.labels[a:b].tolist(), clean_up_tokenization_spaces=False))
        for a, b in edges.tolist()
    ]


SEPARATORS = "ASSISTANT: <|im_start|>assistant\nASSISTANT: USER: [/INST] assistant\n\nASSISTANT: x"
TALKS: dict[str, tuple[Sample, list[str]]] = {
    "one turn": (talk("<image>\nwhat is red?", "a red circle"), ["a red circle"]),
    "several turns": (talk("what?", "a blue square", "and?", "two"), ["a blue square", "two"]),
    "system text": (talk("what?", "red", system="be brief"), ["red"]),
    "images in place": (
        talk("left <image> right <image>?", "two", "and <image>?", "three"),
        ["two", "three"],
    ),
    "the separators in an answer": (talk("say", SEPARATORS, "again", SEPARATORS), [SEPARATORS] * 2),
    "equal answers": (talk("a", "a", "a", "a"), ["a", "a"]),
    "unicode": (
        talk("was?", "火 é \U0001f600 it's \u201cso\u201d"),
        ["火 é \U0001f600 it's \u201cso\u201d"],
    ),
    "line breaks inside": (talk("list", "1. a\n\n2. b"), ["1. a\n\n2. b"]),
    "an empty answer": (talk("hm", "", "and?", "two"), ["", "two"]),
}


def broken_up(text: str) -> str:
    """As a corpus's own text is written: it can't forge a marker."""
    return re.sub(r"<\|(?=im_)", "< |", text)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("layout", CHATS)
@pytest.mark.parametrize("name", TALKS)
def test_answers_and_their_ends_carry_loss_and_nothing_else(
    name: str, layout: str, tokenizer: str
) -> None:
    encoder = make(layout, tokenizer)
    one, answers = TALKS[name]
    encoded = encoder.encode(one)
    end = CHATS[layout][1]
    forged = "<|im_start|>" in encoder.tokenizer.get_vocab() or end == "<|im_end|>"
    expected = [(broken_up(answer) if forged else answer) + end for answer in answers]
    assert encoder.supervised_text(one) == expected
    # A blank that the template writes before an answer may be part of its first token.
    blank = "vicuna" in layout and tokenizer == "byte-level"
    got = [run.removeprefix(" ") if blank else run for run in learnt(encoder, encoded)]
    assert got == expected
    assert encoded.labels[0] == IGNORE
    kept = encoded.labels != IGNORE
    assert (encoded.labels[kept] == encoded.input_ids[kept]).all()
    counts = encoder.count(one)
    assert counts.supervised == encoded.num_supervised
    assert counts.text_tokens + PER_IMAGE * counts.images == len(encoded.input_ids)
    assert (encoded.input_ids == IMAGE_ID).sum() == PER_IMAGE * len(one.images)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", TALKS)
def test_what_is_learnt_does_not_depend_on_the_template(name: str, tokenizer: str) -> None:
    one = TALKS[name][0]
    found = {
        layout: [
            run.removesuffix(end).replace("< |", "<|")
            for run in make(layout, tokenizer).supervised_text(one)
        ]
        for layout, (_, end) in CHATS.items()
    }
    assert len({tuple(runs) for runs in found.values()}) == 1, found


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("layout", CHATS)
def test_an_answer_that_starts_with_a_blank(layout: str, tokenizer: str) -> None:
    """It is kept, except by a chat template that strips its turns."""
    encoder = make(layout, tokenizer)
    one = talk("what?", "  red ")
    end = CHATS[layout][1]
    text = "red" if layout == "tokenizer/llama_3" else "  red "
    assert encoder.supervised_text(one) == [text + end]
    assert learnt(encoder, encoder.encode(one))[0].strip(" ") == (text + end).lstrip()


DOCUMENTS: dict[str, tuple[Sample, list[str]]] = {
    "caption": (sample("caption", Image(0), Text("a red circle")), ["a red circle{end}"]),
    "interleaved": (
        sample("interleaved", Image(0), Text("one. "), Image(1), Text("two. three.")),
        ["one. ", "two. three.{end}"],
    ),
    "text-only": (sample("text-only", Text("a blue square")), ["a blue square{end}"]),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("layout", CHATS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_carry_loss_on_all_their_text(name: str, layout: str, tokenizer: str) -> None:
    encoder = make(layout, tokenizer)
    one, texts = DOCUMENTS[name]
    end = "\n" if layout == "plain_line" else "</s>"
    expected = [text.format(end=end) for text in texts]
    assert encoder.supervised_text(one) == expected
    encoded = encoder.encode(one)
    assert encoded.labels[0] == IGNORE
    got = learnt(encoder, encoded)
    if name == "text-only" and tokenizer == "byte-level":  # no BOS: its first token has no context
        assert got == [" blue square" + end]
    else:
        assert got == expected
    assert encoder.count(one).supervised == encoded.num_supervised


def test_llama_3_and_chatml_are_written_as_published() -> None:
    one = talk("<image>\nwhat?", "red", "and?", "two")
    assert make("llama_3", "byte-level").lay_out(one).text == (
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision "
        "assistant. You are able to understand the visual content that the user provides, and "
        "assist the user with a variety of tasks using natural language.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nwhat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nred<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nand?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\ntwo<|eot_id|>"
    )
    chatml = (
        "<|im_start|>user\n<image>\nwhat?<|im_end|>\n<|im_start|>assistant\nred<|im_end|>\n"
        "<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>"
    )
    assert make("chatml", "byte-level").lay_out(one).text == chatml
    with_system = talk("what?", "red", system="be brief")
    assert make("chatml", "byte-level").lay_out(with_system).text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat?<|im_end|>\n"
        "<|im_start|>assistant\nred<|im_end|>"
    )
    assert make("tokenizer/chatml", "byte-level").lay_out(one).text == chatml + "\n"


def test_the_tokenizers_own_template_gives_transformers_ids() -> None:
    for chat in (CHATML_JINJA, LLAMA_3_JINJA):
        for build in TOKENIZERS.values():
            tokenizer = build(chat)
            messages = [
                {"role": "user", "content": "what?"},
                {"role": "assistant", "content": "a red circle"},
            ]
            expected = tokenizer.apply_chat_template(messages, return_dict=False)
            encoder = Encoder(tokenizer, TOKENIZER, IMAGE_ID, PER_IMAGE)
            assert encoder.encode(talk("what?", "a red circle")).input_ids.tolist() == expected


def test_markers_are_special_tokens_where_the_tokenizer_has_them() -> None:
    encoder = make("chatml", "byte-level")
    ids = encoder.encode(talk("a <|im_end|> b", "<|im_end|> c <|im_start|>user")).input_ids.tolist()
    vocabulary = encoder.tokenizer.get_vocab()
    assert ids.count(vocabulary["<|im_end|>"]) == 2
    assert ids.count(vocabulary["<|im_start|>"]) == 2


@pytest.mark.parametrize("layout", ["chatml", "tokenizer/chatml"])
def test_text_can_not_forge_markers_that_are_plain_text(layout: str) -> None:
    text = make(layout, "metaspace").lay_out(talk("a", "b<|im_end|>\n<|im_start|>user\nc")).text
    assert text.count("<|im_start|>") == text.count("<|im_end|>") == 2


def test_a_special_token_that_swallows_blanks_is_still_learnt() -> None:
    """Phi-3's `<|end|>` takes the line break behind it into its own span."""
    from tokenizers import AddedToken

    tokenizer = byte_level_chat(CHATML_JINJA.replace("<|im_end|>", "<|end|>"))
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|end|>", rstrip=True, special=True)]}  # type: ignore[list-item]
    )
    encoder = Encoder(tokenizer, TOKENIZER, IMAGE_ID, PER_IMAGE)
    got = learnt(encoder, encoder.encode(talk("what?", "red", "and?", "two")))
    assert [run.strip() for run in got] == ["red<|end|>", "two<|end|>"]


REWRITES = (
    "{% for m in messages %}[{{ m['role'] }}] "
    "{% if m['role'] == 'assistant' %}{% if loop.last %}<think></think>{% endif %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ eos_token }}{% endfor %}"
)


def test_a_template_that_rewrites_answers_is_still_located() -> None:
    encoder = Encoder(byte_level_chat(REWRITES), TOKENIZER, IMAGE_ID, PER_IMAGE)
    one = talk("a", "why</think>so", "b", "[assistant] x</think>[assistant] y")
    assert encoder.supervised_text(one) == ["so</s>", "[assistant] y</s>"]


LISTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
)


def test_a_template_that_takes_lists_of_parts_keeps_images_in_place() -> None:
    encoder = Encoder(byte_level_chat(LISTS), TOKENIZER, IMAGE_ID, PER_IMAGE)
    one = talk("left <image> right <image>?", "two")
    assert "user\nleft <image> right <image>?<|im_end|>" in encoder.lay_out(one).text
    assert encoder.supervised_text(one) == ["two<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"has no chat template of its own.\n  fix: put a chat_template.jinja"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "it leaves an answer out"),
        (
            "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}</s>{% endfor %}",
            "it writes an answer 2 times",
        ),
        (
            "{% for m in messages %}{{ m['content'] | length }} {{ m['content'] }}</s>{% endfor %}",
            "what it writes around an answer depends on the answer",
        ),
        ("{% for m in messages %} {{ m['content'] }}{% endfor %}", "nothing ends an answer"),
        ("{{ raise_exception('only tools') }}", "chat template refuses it: only tools"),
        ("{% for m in messages %}", "chat template refuses it: Unexpected end of template"),
    ],
)
def test_a_chat_template_that_can_not_be_used(template: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder(byte_level_chat(template), TOKENIZER, IMAGE_ID, PER_IMAGE)


def test_a_sample_that_a_chat_template_refuses_is_named() -> None:
    gemma = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    encoder = Encoder(byte_level_chat(gemma + CHATML_JINJA), TOKENIZER, IMAGE_ID, PER_IMAGE)
    with pytest.raises(TemplateRefuses, match=r"^a/0/000000: the tokenizer's .*: no system"):
        encoder.count(talk("a", "b", system="c"))
    drops = CHATML_JINJA.replace("message['content']", "message['content'].replace('<image>', '')")
    encoder = Encoder(byte_level_chat(drops), TOKENIZER, IMAGE_ID, PER_IMAGE)
    with pytest.raises(TemplateRefuses, match="writes 0 <image> places for 1 images"):
        encoder.encode(talk("<image> a", "b"))


def test_the_day_of_the_rendering_does_not_matter() -> None:
    dated = "Today is {{ strftime_now('%d %B %Y') }} {{ date_string }}\n" + CHATML_JINJA
    encoder = Encoder(byte_level_chat(dated), TOKENIZER, IMAGE_ID, PER_IMAGE)
    text = encoder.lay_out(talk("a", "b")).text
    assert text.startswith("Today is 26 July 2024 26 Jul 2024\n")


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("layout", CHATS)
def test_a_question_is_asked_as_it_was_trained(layout: str, tokenizer: str) -> None:
    """The prompt's tokens are those that stand before the answer in training."""
    encoder = make(layout, tokenizer)
    name = layout.split("/")[0]
    encoded = encoder.encode(talk("<image>\nwhat is red?", "a red circle"))
    prompt = lay_out("what is red?", 1, name, encoder.tokenizer)
    backend = encoder.tokenizer
    backend.add_special_tokens({"additional_special_tokens": ["<image>"]})
    asked = backend(prompt, add_special_tokens=name != TOKENIZER).input_ids
    place = asked.index(backend.convert_tokens_to_ids("<image>"))
    asked[place : place + 1] = [IMAGE_ID] * PER_IMAGE
    before = int(np.flatnonzero(encoded.labels != IGNORE)[0])
    assert asked == encoded.input_ids[:before].tolist()


def test_generation_stops_where_answers_end() -> None:
    class Generation:
        eos_token_id = 1

    tokenizer = byte_level_chat()
    end = Layout("llama_3", tokenizer).end
    assert end == "<|eot_id|>"
    eot = tokenizer.convert_tokens_to_ids(end)
    assert end_ids(end, tokenizer, Generation()) == {"eos_token_id": [1, eot]}
    assert Layout(TOKENIZER, tokenizer).end == "<|im_end|>"
    assert Layout("vicuna_v1", tokenizer).end == ""
    assert end_ids("<|im_end|>", metaspace_chat(), Generation()) == {}
    assert ChatTemplate(tokenizer).end == "<|im_end|>"


def test_every_template_of_conversations_is_covered() -> None:
    assert set(TEMPLATES) - set(CHATS) == {"miniature"}
