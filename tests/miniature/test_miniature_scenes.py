"""Scenes, digits, questions: pixels show what is said, answers are right and balanced."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vila_core.miniature.digits import load_digits, render_digits
from vila_core.miniature.questions import SCENE_KINDS, SINGLE_KINDS, scene_question, single_question
from vila_core.miniature.scenes import Scene, Thing, draw_scene, render
from vila_core.miniature.text import (
    KNOWLEDGE_KINDS,
    Qa,
    binding,
    homes,
    induction,
    knowledge,
    series,
)
from vila_core.miniature.words import CELLS, COLORS, SHAPES

PURE = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "purple": (0.7, 0, 0.8),
    "white": (1, 1, 1),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def quarter(image: np.ndarray, cell: int) -> np.ndarray:
    top, left = 16 * (cell // 2), 16 * (cell % 2)
    return image[top : top + 16, left : left + 16] / 255.0


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("cell", range(4))
def test_an_object_is_drawn_in_its_cell_and_colour_and_nowhere_else(color: str, cell: int) -> None:
    scenes = [Scene((Thing(color, shape, cell),)) for shape in SHAPES]
    for image in render(scenes, rng()):
        middle = quarter(image, cell)[6:10, 6:10].mean((0, 1))
        nearest = min(PURE, key=lambda name: float(np.abs(middle - PURE[name]).sum()))
        assert nearest == color
        for other in set(range(4)) - {cell}:
            assert quarter(image, other).max() < 0.45  # background and noise only


def test_shapes_differ_in_the_pixels_they_cover() -> None:
    scenes = [Scene((Thing("white", shape, 0),)) for shape in SHAPES for _ in range(50)]
    covered = (render(scenes, rng())[:, :16, :16].mean(-1) > 128).reshape(len(SHAPES), 50, 16, 16)
    corners = covered[:, :, 3:5, 3:5].mean((1, 2, 3))  # only the square reaches there always
    middle_left = covered[:, :, 7:9, 3:5].mean((1, 2, 3))
    names = dict(zip(SHAPES, corners, strict=True))
    assert names["square"] > 0.5 > max(names["circle"], names["cross"], names["triangle"])
    sides = dict(zip(SHAPES, middle_left, strict=True))
    assert sides["cross"] > 0.5 > sides["triangle"]


def test_the_same_seed_draws_the_same_picture_and_another_does_not() -> None:
    scene = [draw_scene(rng(), 3)]
    assert np.array_equal(render(scene, rng(1)), render(scene, rng(1)))
    assert not np.array_equal(render(scene, rng(1)), render(scene, rng(2)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_objects_never_share_a_cell_and_distinct_ones_share_nothing(count: int) -> None:
    draws = rng()
    for _ in range(200):
        scene = draw_scene(draws, count, distinct=True)
        for field in ("cell", "color", "shape"):
            assert len({getattr(thing, field) for thing in scene.things}) == count


def test_objects_are_named_in_no_order() -> None:
    draws = rng()
    rising = sum(
        scene.things[0].cell < scene.things[1].cell
        for scene in (draw_scene(draws, 2) for _ in range(1000))
    )
    assert 430 < rising < 570  # 4.4 standard deviations


def test_no_scan_is_both_for_training_and_for_test() -> None:
    train, test = load_digits()
    assert not set(train.ids_N) & set(test.ids_N)
    assert sorted([*train.ids_N, *test.ids_N]) == list(range(1797))
    assert Counter(test.labels_N.tolist()) == {digit: 40 for digit in range(10)}
    assert min(Counter(train.labels_N.tolist()).values()) > 100
    # And no scan stands twice in the file, once on either side.
    kept = {scan.tobytes() for scan in train.scans_NYX}
    assert not kept & {scan.tobytes() for scan in test.scans_NYX}


def test_a_shown_digit_keeps_its_strokes() -> None:
    train, _ = load_digits()
    few = train.take(np.arange(20))
    shown = render_digits(few, rng()).mean(-1) / 255.0
    blocks = shown.reshape(20, 8, 4, 8, 4).mean((2, 4))
    for scan, block in zip(few.scans_NYX, blocks, strict=True):
        assert np.corrcoef(scan.ravel(), block.ravel())[0, 1] > 0.95


def truth(scene: Scene, qa: Qa) -> str:
    """Answer by looking the question up in the scene, in another way than the code under test."""
    asked = qa.question.split()
    by = {word: t for t in scene.things for word in (t.color, t.shape, CELLS[t.cell])}
    key = asked[-1]
    if qa.kind == "count":
        return str(len(scene.things))
    if qa.kind == "exist":
        color, shape = asked[-2:]
        return "yes" if any((t.color, t.shape) == (color, shape) for t in scene.things) else "no"
    thing = scene.things[0] if key == "object" else by[key]
    answers = {"color": thing.color, "shape": thing.shape, "where": CELLS[thing.cell]}
    return answers.get(qa.kind, f"{thing.color} {thing.shape}")


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_scene_answers_are_right_and_balanced(kind: str) -> None:
    draws = rng(3)
    drawn = [scene_question(draws, kind) for _ in range(2400)]
    assert all(truth(one.scene, one.qa) == one.qa.answer for one in drawn)
    check_balance([one.qa for one in drawn])


@pytest.mark.parametrize("kind", SINGLE_KINDS)
def test_single_answers_are_right_and_balanced(kind: str) -> None:
    draws = rng(4)
    drawn = [single_question(draws, kind) for _ in range(2400)]
    assert all(truth(one.scene, one.qa) == one.qa.answer for one in drawn)
    check_balance([one.qa for one in drawn])


def check_balance(asked: list[Qa]) -> None:
    """Each answer comes as often as its `chance` says, within five standard deviations."""
    chance = asked[0].chance
    counts = Counter(qa.answer for qa in asked)
    assert len(counts) == round(1 / chance)
    spread = 5 * np.sqrt(len(asked) * chance * (1 - chance))
    for answer, count in counts.items():
        assert abs(count - chance * len(asked)) < spread, answer


@pytest.mark.parametrize("kind", KNOWLEDGE_KINDS)
def test_knowledge_answers_are_right(kind: str) -> None:
    draws = rng(5)
    for _ in range(300):
        qa = knowledge(draws, kind)
        given = qa.question.split()[1:]
        expected = {
            "plus": lambda g: str(int(g[0]) + int(g[2])),
            "minus": lambda g: str(int(g[0]) - int(g[2])),
            "sort": lambda g: " ".join(sorted(g[1:])),
            "reverse": lambda g: " ".join(reversed(g[1:])),
            "home": lambda g: homes()[g[2]],
        }[kind](given)
        assert qa.answer == expected
        assert qa.line == f"{qa.question} a {expected} ."


def test_a_row_keeps_to_its_rule_or_binding() -> None:
    draws = rng(6)
    for _ in range(50):
        assert all(name == text.split()[0] for text, name in series(draws, "color", 8))
        assert all(name == text.split()[1] for text, name in series(draws, "shape", 8))
        for items, key in ((binding(draws, 12), 0), (induction(draws, 12), 0)):
            meaning: dict[str, str] = {}
            for text, name in items:
                assert meaning.setdefault(text.split()[key], name) == name
            assert len(set(meaning.values())) == len(meaning)
