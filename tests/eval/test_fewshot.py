"""Demonstrations: where they come from, what they never show, and what they depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vila_core.errors import UserError
from vila_core.eval.benchmark import Question
from vila_core.eval.fewshot import Demonstrator, arranged, orders_of
from vila_core.eval.files import EmbeddedImage, ImageRef
from vila_core.eval.items import Case


def question(key: str, image: ImageRef | None = None, answer: str = "red") -> Question:
    shown = image or EmbeddedImage(key.encode(), key)
    return Question(key, Case((shown, f"what is {key}?"), answer), where=f"train.json: {key}")


TRAIN = [question(f"t{number}") for number in range(40)]
ASKED = [question(f"q{number}") for number in range(30)]


def keys(demonstrator: Demonstrator, asked: Sequence[Question], shots: int, **how: int) -> list:
    return [[demo.key for demo in each] for each in demonstrator.chosen(asked, shots, **how)]


def test_each_question_has_its_own_whoever_else_is_asked() -> None:
    everything = keys(Demonstrator(TRAIN), ASKED, 4, seed=1)
    assert keys(Demonstrator(TRAIN), ASKED[7:9][::-1], 4, seed=1) == everything[7:9][::-1]
    assert all(len(set(found)) == 4 for found in everything)
    assert len({tuple(found) for found in everything}) == len(ASKED)
    assert keys(Demonstrator(TRAIN), ASKED, 4, seed=2) != everything


def test_fewer_shots_are_the_beginning_of_more() -> None:
    demonstrator = Demonstrator(TRAIN)
    sixteen = keys(demonstrator, ASKED, 16)
    for shots in (1, 2, 4, 8):
        assert keys(demonstrator, ASKED, shots) == [found[:shots] for found in sixteen]
    assert demonstrator.demonstrations(ASKED[:2], 0) == [(), ()]


def test_random_demonstrations_are_uniform() -> None:
    asked = [question(f"q{number}") for number in range(2_000)]
    counts = Counter(key for found in keys(Demonstrator(TRAIN), asked, 2) for key in found)
    assert len(counts) == 40
    expected = 2_000 * 2 / 40
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 72.1  # 0.999 quantile of chi squared with 39 degrees of freedom


def test_never_the_question_or_its_image_under_any_name(tmp_path: Path) -> None:
    first, copy, other = tmp_path / "a.png", tmp_path / "copy.png", tmp_path / "b.png"
    Image.new("RGB", (4, 4), "red").save(first)
    copy.write_bytes(first.read_bytes())
    Image.new("RGB", (4, 4), "blue").save(other)
    asked = question("q", first)
    train = [question("t1", copy), question("q", other), question("t2", first), question("t3")]
    demonstrator = Demonstrator(train)
    for seed in range(20):
        assert keys(demonstrator, [asked], 1, seed=seed) == [["t3"]]
    with pytest.raises(UserError, match=r"train.json: q: 2 demonstrations .* only 1 that"):
        demonstrator.chosen([asked], 2)


def test_a_pool_is_drawn_by_the_seed_from_samples_with_an_answer() -> None:
    train = [*TRAIN, question("hidden", answer="")]
    demonstrator = Demonstrator(train, size=10)
    pools = [{demo.key for demo in demonstrator.pool(seed)} for seed in range(8)]
    assert all(len(pool) == 10 and "hidden" not in pool for pool in pools)
    assert len({frozenset(pool) for pool in pools}) == 8
    shown = {key for found in keys(demonstrator, ASKED, 4, seed=3) for key in found}
    assert shown <= pools[3]
    assert len(Demonstrator(train, size=None).pool()) == 40
    with pytest.raises(UserError, match="no sample with an answer"):
        Demonstrator([question("hidden", answer=" ")])


class Colours:
    """Embeds an image as the number in its name, as an angle; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, images: Sequence[ImageRef]) -> NDArray[np.floating]:
        self.asked += [str(image) for image in images]
        angles = [0.02 * float(str(image).lstrip("tq")) for image in images]
        return np.array([[7 * np.cos(a), 7 * np.sin(a)] for a in angles])


def test_rices_shows_the_most_similar_last_and_embeds_once() -> None:
    embed = Colours()
    demonstrator = Demonstrator(TRAIN, how="rices", embed=embed, size=None)
    asked = [question("q0"), question("q11.2"), question("q39")]
    found = keys(demonstrator, asked, 3)
    assert found == [["t2", "t1", "t0"], ["t10", "t12", "t11"], ["t37", "t38", "t39"]]
    assert keys(demonstrator, asked, 1) == [["t0"], ["t11"], ["t39"]]
    assert len(embed.asked) == len(set(embed.asked)) == 43


def test_rices_skips_what_is_the_same_image_and_needs_images() -> None:
    train = [question("t5", EmbeddedImage(b"q5", "t5")), *TRAIN[6:8]]
    demonstrator = Demonstrator(train, how="rices", embed=Colours(), size=None)
    assert keys(demonstrator, [question("q5")], 2) == [["t7", "t6"]]
    blind = Question("q", Case(("no image",), "red"), where="test.json: q")
    with pytest.raises(UserError, match=r"test.json: q: has no image.*demos.how=random"):
        demonstrator.chosen([blind], 1)


def test_orders_are_all_different_arrangements_of_the_same() -> None:
    demonstrator = Demonstrator(TRAIN)
    (chosen,) = demonstrator.chosen(ASKED[:1], 3, seed=5)
    orders = [arranged(chosen, order, seed=5, key="q0") for order in range(6)]
    assert orders[0] == chosen
    assert len({tuple(demo.key for demo in order) for order in orders}) == 6
    assert all(sorted(d.key for d in order) == sorted(d.key for d in chosen) for order in orders)
    assert arranged(chosen, 6, seed=5, key="q0") == chosen
    assert [orders_of(shots, 4) for shots in (0, 1, 2, 3, 16)] == [1, 1, 2, 4, 4]
    (shown,) = demonstrator.demonstrations(ASKED[:1], 3, seed=5, order=4)
    assert shown == tuple(demo.case for demo in orders[4])


def test_text_only_demonstrations_keep_text_and_answer() -> None:
    (with_images,) = Demonstrator(TRAIN).demonstrations(ASKED[:1], 2, seed=1)
    (without,) = Demonstrator(TRAIN).demonstrations(ASKED[:1], 2, seed=1, text_only=True)
    assert [case.answer for case in without] == [case.answer for case in with_images]
    assert [case.parts for case in without] == [case.parts[1:] for case in with_images]
