"""Rules for samples of any format: what each lets pass and what it says about the rest."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.data.make import noise, picture
from vila_core.config import validate
from vila_core.data.languages import check_languages
from vila_core.data.readers.files import Filtered
from vila_core.data.repeats import Repeats, prints
from vila_core.data.rules import RUN_WORDS, Rules, repeated
from vila_core.data.sample import Image, Part, Sample, Text, make_sample
from vila_core.data.scripts import script_shares, scripts
from vila_core.errors import UserError

WIDE = picture(size=(60, 20))
SQUARE = picture(size=(40, 40))


def sample(*texts: str, images: tuple[bytes, ...] = (), **meta: Any) -> Sample:
    parts: list[Part] = [Image(number) for number in range(len(images))]
    return make_sample("c/0/000000", "caption", [*parts, *map(Text, texts)], images, meta)


def verdict(rules: dict[str, Any], one: Sample) -> str | None:
    try:
        Rules.model_validate(rules).check(one)
    except Filtered as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("rules", "one", "found"),
    [
        ({"min_side": 20}, sample("a", images=(WIDE,)), None),
        ({"min_side": 21}, sample("a", images=(WIDE,)), "min_side: 20 pixels, at least 21"),
        (
            {"min_side": 21},
            sample("a", images=(SQUARE, WIDE)),
            "min_side: image 2: 20 pixels, at least 21",
        ),
        ({"max_aspect": 3}, sample("a", images=(WIDE,)), None),
        (
            {"max_aspect": 2.9},
            sample("a", images=(WIDE,)),
            "max_aspect: 60 x 20 pixels, at most 2.9",
        ),
        ({"min_bytes": len(WIDE)}, sample("a", images=(WIDE,)), None),
        (
            {"min_bytes": 10_000},
            sample("a", images=(WIDE,)),
            f"min_bytes: {len(WIDE)} bytes, at least 10000",
        ),
        ({"min_words": 3}, sample("a b", "c"), None),
        ({"min_words": 3}, sample("a  b"), "min_words: 2 words, at least 3"),
        ({"max_words": 2}, sample("a b", "c"), "max_words: 3 words, at most 2"),
        ({"min_chars": 4}, sample("abc"), "min_chars: 3 characters, at least 4"),
        ({"max_chars": 3}, sample("abc"), None),
        ({"max_chars": 2}, sample("abc"), "max_chars: 3 characters, at most 2"),
        ({"min_script": {"LATIN": 0.5}}, sample("ab вг 12 !"), None),
        (
            {"min_script": {"LATIN": 0.5}},
            sample("ab вгд"),
            "min_script LATIN: 0.4000, at least 0.5",
        ),
        ({"min_script": {"CJK": 0.9}}, sample("猫在垫子上。"), None),
        ({"min_script": {"LATIN": 0.1}}, sample("12"), "min_script LATIN: 0.0000, at least 0.1"),
        ({"min_score": {"clip": 0.3}}, sample("a", clip=0.3), None),
        (
            {"min_score": {"clip": 0.3}},
            sample("a", clip=0.2),
            "min_score clip: 0.2, at least 0.3",
        ),
        ({"min_score": {"clip": 0.3}}, sample("a"), "min_score clip: None, at least 0.3"),
        (
            {"max_score": {"nsfw_score_opennsfw2": 0.5, "watermark_score": 0.8}},
            sample("a", nsfw_score_opennsfw2=0.5, watermark_score=0.9),
            "max_score watermark_score: 0.9, at most 0.8",
        ),
        ({"max_score": {"num_faces": 0}}, sample("a", num_faces=0), None),
        (
            {"max_score": {"nsfw": 0.5}},
            sample("a", nsfw=math.nan),
            "max_score nsfw: nan, at most 0.5",
        ),
        (
            {"max_score": {"nsfw": 0.5}},
            sample("a", nsfw="0.1"),
            "max_score nsfw: '0.1', at most 0.5",
        ),
        ({"languages": ["en"]}, sample("a small dog runs over the green field"), None),
        (
            {"languages": ["en", "fr"]},
            sample("Ein kleiner Hund läuft über das grüne Feld"),
            "languages: de, not en or fr",
        ),
        ({"max_repeated": 0.0}, sample("a b c d e f g"), None),
        ({"max_repeated": 0.4}, sample("a b c d e " * 3), "max_repeated: 0.5455, at most 0.4"),
    ],
)
def test_each_rule(rules: dict[str, Any], one: Sample, found: str | None) -> None:
    assert verdict(rules, one) == found
    assert verdict({}, one) is None  # every rule is off by default


def test_the_readers_scores_are_there_before_any_image_is_opened() -> None:
    """The cheap rules come first: a broken header would raise BadImage otherwise."""
    one = make_sample("c/0/000000", "caption", [Image(0), Text("a")], [b"broken"], {"nsfw": 1})
    rules = {"max_score": {"nsfw": 0.5}, "min_side": 9}
    assert verdict(rules, one) == "max_score nsfw: 1, at most 0.5"


@given(st.lists(st.sampled_from("abc"), max_size=40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_repeated_runs_are_those_that_stood_before(words: list[str]) -> None:
    runs = [tuple(words[n : n + RUN_WORDS]) for n in range(len(words) - RUN_WORDS + 1)]
    again = sum(run in runs[:n] for n, run in enumerate(runs))
    assert repeated(" ".join(words)) == pytest.approx(again / len(runs) if runs else 0.0)


def test_scripts_are_the_first_words_of_unicode_names() -> None:
    assert script_shares("aé猫ひ1") == {"LATIN": 0.5, "CJK": 0.25, "HIRAGANA": 0.25}
    assert script_shares("12 !") == {}
    assert {"LATIN", "CYRILLIC", "ARABIC", "CJK", "HANGUL", "DEVANAGARI"} <= scripts()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"min_words": 5, "max_words": 4}, "min_words 5 is over max_words 4"),
        ({"min_script": {"latin": 0.5}}, "min_script.latin: known are"),
        ({"min_script": {"LATIN": 0}}, "a share is over 0 and at most 1"),
        ({"min_size": 5}, "min_size"),
        ({"max_aspect": 0.5}, "greater than or equal to 1"),
    ],
)
def test_rules_that_do_not_fit(rules: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Rules.model_validate(rules)


def test_a_mistyped_rule_is_guessed() -> None:
    with pytest.raises(UserError, match=r"rules\.min_sid: unknown key; did you mean 'min_side'"):
        validate(Rules, {"min_sid": 5}, where="recipe.yaml", path="rules")


def test_unknown_languages_are_refused() -> None:
    check_languages(["en", "de"])
    with pytest.raises(UserError, match=r"rules\.languages: 'english' is not one of .*en, "):
        check_languages(["en", "english"])


def test_rules_import_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "pyarrow", "py3langid")
    code = (
        "import sys, vila_core.data.rules, vila_core.data.repeats;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def kept(rules: dict[str, Any], *samples: Sample) -> list[str | None]:
    repeats = Repeats(Rules.model_validate(rules))
    found: list[str | None] = []
    for one in samples:
        error = repeats.check(prints(one))
        found.append(str(error) if error else None)
        if error is None:
            repeats.keep(prints(one))
    return found


def test_one_image_in_many_samples() -> None:
    a, b = noise(1), noise(2)
    samples = [sample("x", images=(a, a)), sample("y", images=(a,)), sample("z", images=(b, a))]
    assert kept({}, *samples) == [None] * 3
    said = "max_samples_per_image: an image of 2 samples, at most 2"
    assert kept({"max_samples_per_image": 2}, *samples) == [None, None, said]


def test_what_is_rejected_does_not_count() -> None:
    """The third shows b for the first time: the second, which had it too, was not kept."""
    a, b = noise(1), noise(2)
    samples = [sample("x", images=(a,)), sample("y", images=(a, b)), sample("z", images=(b,))]
    assert [one is None for one in kept({"max_samples_per_image": 1}, *samples)] == [
        True,
        False,
        True,
    ]


def test_one_text_in_many_samples() -> None:
    samples = [sample("a  cat"), sample("a cat "), sample("a cat"), sample("A cat"), sample(" ")]
    said = "max_samples_per_text: a text of 2 samples, at most 2"
    assert kept({"max_samples_per_text": 2}, *samples, sample("")) == [
        None,
        None,
        said,
        None,
        None,
        None,
    ]


def test_counting_starts_again_from_what_was_kept() -> None:
    rules = Rules(max_samples_per_text=1)
    first, second = Repeats(rules), Repeats(rules)
    assert first.on
    assert not Repeats(Rules()).on
    for repeats in (first, second):
        repeats.keep(prints(sample("a")))
    assert [bool(one.check(prints(sample("a")))) for one in (first, second)] == [True, True]
