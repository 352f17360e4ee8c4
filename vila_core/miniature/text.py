"""Text of the miniature world: small knowledge tasks, and rows that follow a rule or a binding.

Every task is a `Qa`, written `q 3 plus 4 a 7 .`: the same frame in the base language model's text,
in interleaved documents and in instructions, so that text-only numbers before and after can be
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np

from vila_core.miniature.words import ANIMALS, COLORS, LETTERS, NAMES, PLACES, SHAPES

KNOWLEDGE_KINDS = ("plus", "minus", "sort", "reverse", "home")
RULES = ("color", "shape")
_HOME_SEED = 24
_LARGEST = 9
_SORT_LENGTHS = (3, 3)


@dataclass(frozen=True)
class Qa:
    """A question with its answer. `chance` is what the best guess without the content scores."""

    kind: str
    question: str
    answer: str
    chance: float

    @property
    def prompt(self) -> str:
        """The text up to where the answer starts: `q 3 plus 4 a`."""
        return f"{self.question} a"

    @property
    def line(self) -> str:
        """The whole exchange: `q 3 plus 4 a 7 .`."""
        return f"{self.prompt} {self.answer} ."


def knowledge(rng: np.random.Generator, kind: str | None = None) -> Qa:
    """Draw a task of `kind`, or of any kind: arithmetic, sorting, reversing, or one of 24 facts."""
    kind = kind or KNOWLEDGE_KINDS[rng.integers(len(KNOWLEDGE_KINDS))]
    return _TASKS[kind](rng)


def homes() -> dict[str, str]:
    """Return the 24 facts of the world: each animal's home. Eight homes, three animals each."""
    order = np.random.default_rng(_HOME_SEED).permutation(len(ANIMALS))
    return {ANIMALS[animal]: PLACES[n % len(PLACES)] for n, animal in enumerate(order)}


def _plus(rng: np.random.Generator) -> Qa:
    left, right = (int(n) for n in rng.integers(_LARGEST + 1, size=2))
    return Qa("plus", f"q {left} plus {right}", str(left + right), 10 / 100)


def _minus(rng: np.random.Generator) -> Qa:
    small, large = sorted(int(n) for n in rng.integers(_LARGEST + 1, size=2))
    return Qa("minus", f"q {large} minus {small}", str(large - small), 18 / 100)


def _letters(rng: np.random.Generator) -> list[str]:
    count = int(rng.integers(_SORT_LENGTHS[0], _SORT_LENGTHS[1] + 1))
    return [LETTERS[n] for n in rng.choice(len(LETTERS), count, replace=False)]


def _sort(rng: np.random.Generator) -> Qa:
    letters = _letters(rng)
    return Qa(
        "sort",
        f"q sort {' '.join(letters)}",
        " ".join(sorted(letters)),
        1 / factorial(len(letters)),
    )


def _reverse(rng: np.random.Generator) -> Qa:
    letters = _letters(rng)
    return Qa(
        "reverse",
        f"q reverse {' '.join(letters)}",
        " ".join(letters[::-1]),
        1 / factorial(len(letters)),
    )


def _home(rng: np.random.Generator) -> Qa:
    animal = ANIMALS[rng.integers(len(ANIMALS))]
    return Qa("home", f"q home of {animal}", homes()[animal], 1 / len(PLACES))


_TASKS: dict[str, Callable[[np.random.Generator], Qa]] = {
    "plus": _plus,
    "minus": _minus,
    "sort": _sort,
    "reverse": _reverse,
    "home": _home,
}


def named(rng: np.random.Generator) -> tuple[str, str]:
    """Draw the colour and the shape of one object that is only named, not drawn."""
    return COLORS[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]


def follow(rule: str, color: str, shape: str) -> str:
    """Return what the rule names of an object: its colour or its shape."""
    return color if rule == "color" else shape


def series(rng: np.random.Generator, rule: str, count: int) -> list[tuple[str, str]]:
    """Return `count` items `("red circle ->", "red")` of one rule, all in words."""
    items = []
    for _ in range(count):
        color, shape = named(rng)
        items.append((f"{color} {shape} ->", follow(rule, color, shape)))
    return items


def binding(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Return `count` items in which two or three colours have names that hold for this row only."""
    kinds = int(rng.integers(2, 4))
    colors = [COLORS[n] for n in rng.choice(len(COLORS), kinds, replace=False)]
    names = [NAMES[n] for n in rng.choice(len(NAMES), kinds, replace=False)]
    items = []
    for pick in rng.integers(kinds, size=count):
        shape = SHAPES[rng.integers(len(SHAPES))]
        items.append((f"{colors[pick]} {shape} ->", names[pick]))
    return items


def induction(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Return `count` items `("h ->", "dax")`: two to four keys, each bound to a random name."""
    keys = int(rng.integers(2, 5))
    pool = (*LETTERS, *ANIMALS)
    left = [pool[n] for n in rng.choice(len(pool), keys, replace=False)]
    right = [NAMES[n] for n in rng.choice(len(NAMES), keys, replace=False)]
    return [(f"{left[pick]} ->", right[pick]) for pick in rng.integers(keys, size=count)]
