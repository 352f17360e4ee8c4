"""The judge against a plain one that compares with everything, and its words to the user."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage

from tests.data.make import noise, picture
from vila_core.data.dedupe import (
    DedupeConfig,
    EvalItem,
    Judge,
    Signature,
    Signer,
)
from vila_core.data.sample import Image, Text, make_sample
from vila_core.errors import UserError
from vila_core.images import decode

pytestmark = pytest.mark.usefixtures("small_levels")

BYTES = DedupeConfig(perceptual=False)
FLAT = 1 << 63


def made(content: int, text: int, images: list[tuple[int, int]]) -> Signature:
    return Signature(
        content,
        text,
        np.array([one for one, _ in images], dtype=np.uint64),
        np.array([look for _, look in images], dtype=np.uint64),
        np.zeros(0, dtype=np.uint64),
    )


@dataclass
class PlainJudge:
    """The definition, in the plainest words."""

    config: DedupeConfig
    content: dict[int, str] = field(default_factory=dict)
    near: dict[tuple[object, ...], str] = field(default_factory=dict)
    leaders: list[tuple[int, str]] = field(default_factory=list)
    bytes: dict[int, str] = field(default_factory=dict)

    def check(self, key: str, signature: Signature) -> tuple[str, str] | None:
        pictures: list[tuple[str, int]] = []
        known: list[str | None] = []
        new: list[tuple[int, str]] = []
        for number, value in enumerate(signature.images.tolist()):
            look = int(signature.phashes[number]) if self.config.perceptual else 0
            if look in (0, FLAT):
                pictures.append(("bytes", value))
                known.append(self.bytes.get(value))
                continue
            match = next(
                (
                    one
                    for one in (*self.leaders, *new)
                    if (one[0] ^ look).bit_count() <= self.config.distance
                ),
                None,
            )
            if match is None:
                new.append(match := (look, key))
            pictures.append(("look", match[0]))
            known.append(None if match in new else match[1])
        near = (signature.text, *pictures)
        if self.config.exact and signature.content in self.content:
            return "duplicate", self.content[signature.content]
        if self.config.near and near in self.near:
            return "near duplicate", self.near[near]
        if self.config.repeated_images == "set-aside" and known and known[0] and all(known):
            return "repeated images", known[0]
        self.content.setdefault(signature.content, key)
        self.near.setdefault(near, key)
        self.leaders += new
        for value in signature.images.tolist():
            self.bytes.setdefault(value, key)
        return None


LOOKS = [0, FLAT, 0xF0F0, 0xF0F1, 0xF0F7, 0xF0FF, 0xFFFF, 0xABCDEF]
LOOK = st.sampled_from(LOOKS) | st.integers(0, 2**64 - 1)
IMAGES = st.lists(st.tuples(st.integers(0, 4), LOOK), max_size=3)
SIGNATURES = st.lists(st.builds(made, st.integers(0, 30), st.integers(0, 3), IMAGES), max_size=40)
CONFIGS = st.builds(
    DedupeConfig,
    exact=st.booleans(),
    near=st.booleans(),
    repeated_images=st.sampled_from(["keep", "set-aside"]),
    perceptual=st.booleans(),
    distance=st.integers(0, 6),
    decontaminate=st.just("off"),
)


@given(CONFIGS, SIGNATURES, st.data())
@settings(max_examples=200, deadline=None)
def test_verdicts_are_those_of_comparing_all(
    config: DedupeConfig, signatures: list[Signature], data: st.DataObject
) -> None:
    """However the calls cut the samples, and after a restart at any place."""
    keys = [f"c/0/{number:06d}" for number in range(len(signatures))]
    plain = PlainJudge(config)
    expected = [plain.check(*one) for one in zip(keys, signatures, strict=True)]

    judge = Judge(config)
    one_by_one = [judge.check(*one) for one in zip(keys, signatures, strict=True)]
    assert [verdict and (verdict.reason, verdict.other) for verdict in one_by_one] == expected

    cut, restart = (data.draw(st.integers(0, len(keys)), label=name) for name in ("cut", "restart"))
    restored = Judge(config)
    admitted = [number for number in range(restart) if expected[number] is None]
    restored.restore_many([keys[n] for n in admitted], (signatures[n] for n in admitted))
    for start, stop in ((restart, max(cut, restart)), (max(cut, restart), len(keys))):
        found = restored.check_many(keys[start:stop], signatures[start:stop])
        assert found == one_by_one[start:stop]


def caption(number: int, text: str, *images: bytes, corpus: str = "c") -> tuple[str, Signature]:
    parts = [*(Image(n) for n in range(len(images))), Text(text)]
    sample = make_sample(f"{corpus}/0/{number:06d}", "caption", parts, images)
    return sample.key, Signer(BYTES)(sample)


def test_a_verdict_says_what_is_repeated_within_and_across_corpora() -> None:
    judge = Judge(BYTES)
    assert judge.check(*caption(0, "a cat", noise())) is None
    same = judge.check(*caption(1, "a cat", noise()))
    near = judge.check(*caption(0, "A  CAT", noise(), corpus="d"))
    assert same is not None
    assert near is not None
    assert (same.group, same.reason, same.other) == ("duplicate", "duplicate", "c/0/000000")
    assert same.detail == "has the content of c/0/000000"
    assert near.detail == "has nearly the text and images of c/0/000000"
    assert judge.check(*caption(2, "a dog", noise())) is None
    assert judge.check(*caption(3, "a cat", noise(1))) is None
    assert judge.check(*caption(4, "a cat")) is None


def test_known_images_under_new_text_are_set_aside_on_request() -> None:
    judge = Judge(BYTES.model_copy(update={"repeated_images": "set-aside"}))
    assert judge.check(*caption(0, "a cat", noise())) is None
    assert judge.check(*caption(1, "two", noise(), noise(1))) is None
    verdict = judge.check(*caption(2, "a dog", noise(1), noise()))
    assert verdict is not None
    assert verdict.detail == "shows nothing new, first c/0/000001"
    assert judge.check(*caption(3, "no image")) is None


QUESTION = "which of the seven old bridges over the river was rebuilt after the great flood of 1910"


def learned(config: DedupeConfig = BYTES) -> Judge:
    judge = Judge(config)
    items = [EvalItem("q0", ("what is it?", "a cat"), (noise(7),)), EvalItem("q1", (QUESTION,), ())]
    found = judge.learn_eval("bench", items)
    assert found is not None
    assert (found.items, found.images, found.texts) == (2, 1, 1)
    return judge


def test_samples_of_an_evaluation_set_are_blocked_and_not_remembered() -> None:
    judge = learned()
    image = judge.check(*caption(0, "a cat", noise(1), noise(7)))
    assert image is not None
    assert (image.group, image.reason, image.other) == (
        "contaminated",
        "image of an evaluation set",
        "bench/q0",
    )
    assert image.detail == "image 2 of 2 is one of bench/q0"
    for number in range(2):  # the second is no duplicate of what was not kept
        text = judge.check(*caption(number, f"Quiz: {QUESTION.upper()}? The stone one."))
        assert text is not None
        assert text.reason == "text of an evaluation set"
        assert text.detail == "holds 100% of the 13-grams of a text of bench/q1"
    assert judge.check(*caption(3, " ".join(QUESTION.split()[:15]))) is not None  # 3 of 5
    assert judge.check(*caption(4, " ".join(QUESTION.split()[:13]))) is None  # 1 of 5
    assert judge.check(*caption(5, "what is it? a cat", noise(8))) is None
    assert len(judge) == 2


def test_report_admits_and_counts() -> None:
    judge = learned(BYTES.model_copy(update={"decontaminate": "report"}))
    assert judge.check(*caption(0, "a cat", noise(7))) is None
    again = judge.check(*caption(1, "a cat", noise(7)))
    assert again is not None
    assert again.reason == "duplicate"
    assert judge.reported == {"image of an evaluation set": 1}
    assert [one.key for one in judge.examples] == ["c/0/000000"]


def test_off_learns_nothing() -> None:
    judge = Judge(BYTES.model_copy(update={"decontaminate": "off"}))
    assert judge.learn_eval("bench", [EvalItem("q", (QUESTION,), ())]) is None
    assert judge.check(*caption(0, QUESTION)) is None


def test_instructions_that_a_whole_set_shares_do_not_count() -> None:
    rule = "answer with one word or a short phrase taken from the image above and do not explain it"
    own = [f"what does sign {n} say about the opening hours of shop {n}" for n in range(11)]
    items = [EvalItem(str(n), (f"{text}? {rule}",), ()) for n, text in enumerate(own)]
    few, many = Judge(BYTES), Judge(BYTES)
    few.learn_eval("few", items[:10])
    many.learn_eval("many", items)
    sample = caption(0, f"is it a cat? {rule} {own[4]}")  # the rule, but no question before it
    assert few.check(*sample) is None
    assert many.check(*sample) is None
    config = BYTES.model_copy(update={"share": 0.2})
    few, many = Judge(config), Judge(config)
    few.learn_eval("few", items[:10])
    many.learn_eval("many", items)
    assert few.check(*sample) is not None
    assert many.check(*sample) is None
    leaked = many.check(*caption(1, f"{own[4]}? {rule}"))
    assert leaked is not None
    assert leaked.other == "many/4"


def test_resized_copies_of_evaluation_images_are_found() -> None:
    original, file = noise(7, 96), io.BytesIO()
    decode(original).resize((128, 128), PilImage.Resampling.BICUBIC).save(file, "PNG")
    config = DedupeConfig(distance=6)
    judge = Judge(config)
    judge.learn_eval("bench", [EvalItem("flat", (), (picture(),)), EvalItem("q", (), (original,))])
    sample = make_sample("c/0/000000", "caption", [Image(0), Text("x")], [file.getvalue()])
    verdict = judge.check(sample.key, Signer(config)(sample))
    assert verdict is not None
    assert verdict.detail.startswith("its image looks like one of bench/q: ")
    flat = make_sample("c/0/000001", "caption", [Image(0), Text("x")], [picture((9, 9, 9))])
    assert judge.check(flat.key, Signer(config)(flat)) is None


def test_a_broken_evaluation_image_is_named() -> None:
    with pytest.raises(UserError, match="set 'bench', item 'q': truncated"):
        Judge(DedupeConfig()).learn_eval("bench", [EvalItem("q", (), (noise()[:200],))])
