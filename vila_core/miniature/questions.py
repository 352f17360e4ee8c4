"""Questions about scenes, drawn so that within one kind every answer is equally likely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

from vila_core.miniature.scenes import Scene, draw_scene
from vila_core.miniature.text import Qa
from vila_core.miniature.words import CELLS, COLORS, SHAPES

SCENE_KINDS = ("color", "shape", "count", "exist", "where", "object")
"""Kinds for scenes with several objects (`count` also for one)."""
SINGLE_KINDS = ("color", "shape", "where")
TRANSFER_KINDS = ("count-plus", "color-sort")
"""Kinds that only the text-only instructions may teach: what is seen is to be worked with."""
MAX_OBJECTS = 3
_LARGEST_ADDED = 6


@dataclass(frozen=True)
class SceneQuestion:
    """A scene and one question about it."""

    scene: Scene
    qa: Qa


def scene_question(rng: np.random.Generator, kind: str) -> SceneQuestion:
    """Draw a scene with several objects, no two alike, and a question of `kind` about it."""
    fewest = 1 if kind in ("count", "count-plus") else 2
    scene = draw_scene(rng, int(rng.integers(fewest, MAX_OBJECTS + 1)), distinct=True)
    return SceneQuestion(scene, ask(rng, scene, kind))


def single_question(rng: np.random.Generator, kind: str) -> SceneQuestion:
    """Draw a scene with one object and a question about it: `q color of object`."""
    scene = draw_scene(rng, 1)
    return SceneQuestion(scene, ask_single(scene, kind))


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Qa:
    """Ask about `scene`, in which no colour and no shape may come twice."""
    return _KINDS[kind](rng, scene)


def ask_single(scene: Scene, kind: str) -> Qa:
    """Ask about the only object of `scene`."""
    thing = scene.things[0]
    if kind == "color":
        return Qa("color", "q color of object", thing.color, 1 / len(COLORS))
    if kind == "shape":
        return Qa("shape", "q shape of object", thing.shape, 1 / len(SHAPES))
    return Qa("where", "q where is object", thing.place, 1 / len(CELLS))


def _pick(rng: np.random.Generator, scene: Scene) -> int:
    return int(rng.integers(len(scene.things)))


def _color(rng: np.random.Generator, scene: Scene) -> Qa:
    thing = scene.things[_pick(rng, scene)]
    return Qa("color", f"q color of {thing.shape}", thing.color, 1 / len(COLORS))


def _shape(rng: np.random.Generator, scene: Scene) -> Qa:
    thing = scene.things[_pick(rng, scene)]
    return Qa("shape", f"q shape of {thing.color}", thing.shape, 1 / len(SHAPES))


def _count(rng: np.random.Generator, scene: Scene) -> Qa:
    return Qa("count", "q how many objects", str(len(scene.things)), 1 / MAX_OBJECTS)


def _exist(rng: np.random.Generator, scene: Scene) -> Qa:
    """Ask for an object that is there, or for one whose colour or shape is there on another one."""
    present = {thing.name for thing in scene.things}
    if rng.random() < 0.5:
        name = scene.things[_pick(rng, scene)].name
        return Qa("exist", f"q is there {name}", "yes", 1 / 2)
    colors = COLORS if rng.random() < 0.5 else [thing.color for thing in scene.things]
    while True:
        color = colors[rng.integers(len(colors))]
        name = f"{color} {SHAPES[rng.integers(len(SHAPES))]}"
        if name not in present:
            return Qa("exist", f"q is there {name}", "no", 1 / 2)


def _where(rng: np.random.Generator, scene: Scene) -> Qa:
    thing = scene.things[_pick(rng, scene)]
    return Qa("where", f"q where is {thing.shape}", thing.place, 1 / len(CELLS))


def _object(rng: np.random.Generator, scene: Scene) -> Qa:
    thing = scene.things[_pick(rng, scene)]
    chance = 1 / (len(COLORS) * len(SHAPES))
    return Qa("object", f"q what is {thing.place}", thing.name, chance)


def _count_plus(rng: np.random.Generator, scene: Scene) -> Qa:
    added = int(rng.integers(1, _LARGEST_ADDED + 1))
    answer = str(len(scene.things) + added)
    return Qa("count-plus", f"q how many objects plus {added}", answer, 1 / MAX_OBJECTS)


def _color_sort(rng: np.random.Generator, scene: Scene) -> Qa:
    """Ask for all colours by alphabet. The best guess is one of the 15 choices of two of six."""
    colors = sorted(thing.color for thing in scene.things)
    return Qa("color-sort", "q sort color", " ".join(colors), 0.5 / comb(len(COLORS), 2))


_KINDS: dict[str, Callable[[np.random.Generator, Scene], Qa]] = {
    "color": _color,
    "shape": _shape,
    "count": _count,
    "exist": _exist,
    "where": _where,
    "object": _object,
    "count-plus": _count_plus,
    "color-sort": _color_sort,
}


def digit_question(label: int) -> Qa:
    """Ask for the digit of a scan."""
    return Qa("digit", "q what digit", str(label), 1 / 10)


def reading_text(question: SceneQuestion) -> str:
    """Return the prompt of the same question about the scene in words instead of pixels."""
    return f"scene {question.scene.caption} . {question.qa.prompt}"
