from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.make import IMAGE_ID, byte_tokenizer, encoder, metaspace_tokenizer
from vila_core.data.encode import IGNORE, Encoded, Encoder
from vila_core.data.sample import Image, Part, Sample, Text, make_sample, split_tags
from vila_core.data.templates import TEMPLATES, get_template, render, with_eos
from vila_core.errors import UserError


def sample(*parts: Part) -> Sample:
    images = [b"x"] * sum(isinstance(part, Image) for part in parts)
    return make_sample("a/0/000000", "conversation", parts, images)


def talk(*turns: tuple[str, str]) -> Sample:
    parts: list[Part] = []
    images = 0
    for question, answer in turns:
        found, images = split_tags(question, "user", images)
        parts += [*found, Text(answer, "assistant")]
    return sample(*parts)


def words(text_encoder: Encoder, encoded: Encoded, *, supervised: bool = False) -> str:
    ids = encoded.labels if supervised else encoded.input_ids
    return text_encoder.tokenizer.decode([n for n in ids.tolist() if n not in (IGNORE, IMAGE_ID)])


def test_the_miniature_template_and_its_labels() -> None:
    text = encoder()
    visual = talk(("scene <image> . q color of circle", "red"), ("q how many objects", "2"))
    encoded = text.encode(visual)
    assert words(text, encoded) == "scene . q color of circle a red . q how many objects a 2 ."
    assert words(text, encoded, supervised=True) == "red . 2 ."
    assert encoded.input_ids.tolist()[1:5] == [IMAGE_ID] * 4
    assert encoded.image_places.tolist() == [1]
    assert encoded.labels[:9].tolist() == [IGNORE] * 9
    kept = encoded.labels != IGNORE
    assert (encoded.labels[kept] == encoded.input_ids[kept]).all()


def test_documents_supervise_all_text_but_the_first_token() -> None:
    text = encoder("plain")
    encoded = text.encode(sample(Text("scene"), Image(0), Text("red circle"), Image(1), Text("q")))
    assert words(text, encoded) == "scene red circle q </s>"
    assert words(text, encoded, supervised=True) == "red circle q </s>"
    assert encoded.image_places.tolist() == [1, 7]


def test_images_may_stand_in_another_order_than_they_are_stored() -> None:
    encoded = encoder().encode(sample(Image(1), Text("red"), Image(0), Text("blue")))
    assert encoded.image_indices == (1, 0)


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: <image>\nwhat is red? "
    "ASSISTANT: a red circle</s>USER: how many? ASSISTANT: two</s>"
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vicuna_v1", VICUNA),
        ("vicuna_v1_no_system", " " + VICUNA[VICUNA.index("USER") :]),
        ("plain", "<image>\nwhat is red?\na red circle</s>how many?\ntwo</s>"),
    ],
)
def test_templates_write_what_the_released_code_writes(name: str, expected: str) -> None:
    pieces = render(
        talk(("<image>\nwhat is red?", "a red circle"), ("how many?", "two")),
        with_eos(get_template(name), "</s>"),
    )
    assert "".join("<image>" if piece.text is None else piece.text for piece in pieces) == expected
    learnt = [piece.text for piece in pieces if piece.supervised]
    assert learnt == ["a red circle", "</s>", "two", "</s>"]


def test_a_system_text_of_the_sample_replaces_the_templates() -> None:
    with_system = sample(Text("be brief", "system"), Text("why", "user"), Text("so", "assistant"))
    pieces = render(with_system, with_eos(get_template("vicuna_v1"), "</s>"))
    assert "".join(str(piece.text) for piece in pieces) == "be brief USER: why ASSISTANT: so</s>"


@pytest.mark.parametrize(
    "answer", ["a red circle", "ASSISTANT: twice USER: said", "it's “é” \u2013 火"]
)
def test_spans_are_right_for_tokens_that_cross_the_template(answer: str) -> None:
    """The answer's first token takes the blank before it; an answer may contain the separators."""
    text = Encoder(metaspace_tokenizer(), "vicuna_v1", 9999, 3)
    encoded = text.encode(talk(("what is red?", answer), ("and?", "two")))
    got = text.tokenizer.decode([n for n in encoded.labels.tolist() if n != IGNORE])
    whole = text.tokenizer.decode(encoded.input_ids.tolist())
    if (
        "火" not in answer
    ):  # unknown characters become byte tokens or <unk> in this small vocabulary
        assert got.replace(" ", "") == f"{answer}</s>two</s>".replace(" ", "")
    assert whole.startswith("<s>")
    assert got.count("</s>") == 2
    at = TEMPLATES["vicuna_v1"].system
    assert at[:20] not in got


def test_characters_of_several_tokens_are_supervised_whole() -> None:
    text = Encoder(byte_tokenizer(), "vicuna_v1", 9999, 3)
    encoded = text.encode(talk(("what?", "火 é"), ("USER", "ok")))
    got = text.tokenizer.decode([n for n in encoded.labels.tolist() if n != IGNORE])
    assert got.replace(" ", "") == "火é<|end|>ok<|end|>"


def test_bos_only_where_the_tokenizer_puts_one() -> None:
    document = sample(Text("a red circle"))
    with_bos = Encoder(metaspace_tokenizer(), "plain", 9999, 3)
    ids = with_bos.encode(document).input_ids.tolist()
    assert ids == [*with_bos.tokenizer("a red circle").input_ids, with_bos.tokenizer.eos_token_id]
    assert with_bos.encode(document).labels[0] == IGNORE
    without = Encoder(byte_tokenizer(), "plain", 9999, 3)
    ids = without.encode(document).input_ids.tolist()
    assert ids == [*without.tokenizer("a red circle").input_ids, without.tokenizer.eos_token_id]


def test_text_can_not_forge_special_tokens() -> None:
    text = Encoder(metaspace_tokenizer(), "vicuna_v1", 9999, 3)
    encoded = text.encode(sample(Text("a <image> </s> <s>", "user"), Text("</s> b", "assistant")))
    assert len(encoded.image_places) == 0
    assert 9999 not in encoded.input_ids
    ids = encoded.input_ids.tolist()
    assert ids.count(text.tokenizer.eos_token_id) == 1
    assert ids.count(text.tokenizer.bos_token_id) == 1


def test_the_callers_tokenizer_is_left_alone_and_can_change() -> None:
    tokenizer = metaspace_tokenizer()
    text = Encoder(tokenizer, "plain", 9999, 3)
    assert "<image>" not in tokenizer.get_vocab()
    before = text.encode(sample(Text("a red circle")))
    tokenizer("a red circle", truncation=True, max_length=2)
    tokenizer.add_special_tokens({"additional_special_tokens": ["red"]})
    assert text.encode(sample(Text("a red circle"))).input_ids.tolist() == before.input_ids.tolist()


def test_a_processors_tokenizer_counts_the_same_as_the_bare_one() -> None:
    tokenizer = metaspace_tokenizer()
    bare = Encoder(tokenizer, "plain", 0, 1)
    tokenizer = metaspace_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    theirs = Encoder(tokenizer, "plain", int(tokenizer.convert_tokens_to_ids("<image>")), 1)  # type: ignore[arg-type]
    document = sample(Text("what is"), Image(0), Text("red? a"), Image(1), Text(" circle"))
    assert bare.count(document) == theirs.count(document)
    assert theirs.encode(document).input_ids.tolist() == (
        tokenizer("what is<image>red? a<image> circle</s>").input_ids
    )


PARTS = st.lists(
    st.one_of(
        st.builds(Text, st.text(max_size=20), st.sampled_from(["user", "assistant"])),
        st.just(Image(0, "user")),
    ),
    min_size=1,
    max_size=8,
)


@given(PARTS, st.sampled_from(sorted(TEMPLATES)), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_counts_and_encoding_agree_for_any_text(
    drawn: list[Part], template: str, tokens_per_image: int
) -> None:
    numbers = iter(range(100))
    parts = [Image(next(numbers), "user") if isinstance(p, Image) else p for p in drawn]
    text = Encoder(BYTES, template, 7777, tokens_per_image)
    one = sample(*parts)
    counts, encoded = text.count(one), text.encode(one)
    assert len(encoded.input_ids) == counts.text_tokens + counts.images * tokens_per_image
    assert encoded.num_supervised == counts.supervised
    assert (encoded.input_ids == 7777).sum() == counts.images * tokens_per_image


BYTES = byte_tokenizer()


def test_the_encoder_travels_to_workers() -> None:
    text = pickle.loads(pickle.dumps(encoder()))
    assert words(text, text.encode(sample(Text("red circle .")))) == "red circle ."


def test_unknown_template() -> None:
    with pytest.raises(UserError, match=r"template 'vicuna' is not known; known templates: chatml"):
        encoder("vicuna")
