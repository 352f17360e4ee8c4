"""Evaluation sets of the miniature world, a folder per task: `task.json`, `items.jsonl`, images.

Pictures and draws are the evaluation stream's own; digits are the test split. Kinds hold equally
many items, and within a kind every answer is equally likely, so a model that ignores the picture
can't profit from a favourite answer; the blind baseline shows what it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vila_core.jsonio import dumps
from vila_core.miniature.config import WorldConfig
from vila_core.miniature.digits import load_digits
from vila_core.miniature.documents import Picture, Scan
from vila_core.miniature.questions import (
    SCENE_KINDS,
    SINGLE_KINDS,
    TRANSFER_KINDS,
    digit_question,
    reading_text,
    scene_question,
    single_question,
)
from vila_core.miniature.scenes import draw_scene
from vila_core.miniature.text import KNOWLEDGE_KINDS, RULES, Qa, follow, knowledge, series
from vila_core.miniature.words import COLORS, SHAPES
from vila_core.miniature.writers import Painter, write_files, write_lines

DEMOS = 4
"""Demonstrations that every few-shot item carries: the largest number of shots."""
_DEMO_POOL = 16


@dataclass(frozen=True)
class _Case:
    """One exchange: what stands before the answer (text, or a picture's place), and the answer."""

    parts: Sequence[str | Picture]
    answer: str


@dataclass(frozen=True)
class _Item:
    kind: str
    case: _Case
    chance: float
    demos: Sequence[_Case] = field(default_factory=tuple)


@dataclass(frozen=True)
class _Task:
    """A task's settings, and how its items are drawn."""

    name: str
    draw: Callable[[np.random.Generator, WorldConfig], list[_Item]]
    shots: tuple[int, ...] = (0,)
    blind: bool = True
    stop: str = "."
    max_new_tokens: int = 4
    metric: str = "accuracy"


def write_eval_sets(folder: Path, config: WorldConfig, rng: np.random.Generator) -> list[str]:
    """Write every task below `folder` and return the tasks' names."""
    _, test = load_digits()
    tasks = (*_TASKS, _TRANSFER) if config.transfer_share else _TASKS
    for task in tasks:
        _write(folder / task.name, task, task.draw(rng, config), Painter(test, rng))
    return [task.name for task in tasks]


def _write(folder: Path, task: _Task, items: Sequence[_Item], painter: Painter) -> None:
    # One file per picture drawn: demonstrations are shared between items, and so are their files.
    pictures = {
        id(part): part
        for item in items
        for case in (item.case, *item.demos)
        for part in case.parts
        if not isinstance(part, str)
    }
    images = painter.paint(list(pictures.values()))
    names = {key: f"images/{n:06d}.png" for n, key in enumerate(pictures)}
    records = []
    counts: dict[str, int] = {}
    for item in items:
        number = counts[item.kind] = counts.get(item.kind, -1) + 1
        records.append(
            {
                "key": f"{task.name}/{item.kind}/{number:06d}",
                "type": item.kind,
                "parts": _parts(item.case, names),
                "answer": item.case.answer,
                "chance": item.chance,
                "demos": [
                    {"parts": _parts(demo, names), "answer": demo.answer} for demo in item.demos
                ],
            }
        )
    write_lines(folder / "items.jsonl", records)
    write_files(folder, {"task.json": dumps(_settings(task), indent=2).encode()})
    if images:
        (folder / "images").mkdir()
        write_files(folder, dict(zip(names.values(), images, strict=True)))


def _settings(task: _Task) -> dict[str, Any]:
    return {
        "task": task.name,
        "metric": task.metric,
        "shots": list(task.shots),
        "blind": task.blind,
        "max_new_tokens": task.max_new_tokens,
        "stop": task.stop,
    }


def _parts(case: _Case, names: Mapping[int, str]) -> list[dict[str, str]]:
    return [{"text": p} if isinstance(p, str) else {"image": names[id(p)]} for p in case.parts]


def _seen(picture: Picture, qa: Qa) -> _Case:
    return _Case(("scene ", picture, f" . {qa.prompt}"), qa.answer)


def _balanced(
    rng: np.random.Generator,
    config: WorldConfig,
    draw: Callable[[str], tuple[Picture, Qa]],
    kinds: Sequence[str],
) -> list[_Item]:
    """Return `visual_items` items of each kind; the demonstrations of an item are of its kind."""
    items = []
    for kind in kinds:
        pool = [_seen(*draw(kind)) for _ in range(_DEMO_POOL)]
        for _ in range(config.visual_items):
            picture, qa = draw(kind)
            items.append(_Item(kind, _seen(picture, qa), qa.chance, _demos(rng, pool)))
    return items


def _demos(rng: np.random.Generator, pool: Sequence[_Case]) -> tuple[_Case, ...]:
    return tuple(pool[n] for n in rng.choice(len(pool), DEMOS, replace=False))


def _vqa(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    return _scenes(rng, config, SCENE_KINDS)


def _transfer(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    return _scenes(rng, config, TRANSFER_KINDS)


def _scenes(rng: np.random.Generator, config: WorldConfig, kinds: Sequence[str]) -> list[_Item]:
    def draw(kind: str) -> tuple[Picture, Qa]:
        question = scene_question(rng, kind)
        return question.scene, question.qa

    return _balanced(rng, config, draw, kinds)


def _single(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    def draw(kind: str) -> tuple[Picture, Qa]:
        question = single_question(rng, kind)
        return question.scene, question.qa

    return _balanced(rng, config, draw, SINGLE_KINDS)


def _digits(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    """Ask for test scans, equally many of each digit. No demonstrations: they'd show test scans."""
    _, test = load_digits()
    items = []
    for digit in range(10):
        rows = np.flatnonzero(test.labels_N == digit)[: config.eval_digits // 10]
        qa = digit_question(digit)
        items += [_Item("digit", _seen(Scan(int(row), digit), qa), qa.chance) for row in rows]
    return items


def _caption(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    chance = 1 / (len(COLORS) * len(SHAPES) * 4)
    drawn = [draw_scene(rng, 1) for _ in range(_DEMO_POOL + config.eval_items)]
    cases = [_Case((scene,), scene.caption) for scene in drawn]
    pool = cases[:_DEMO_POOL]
    return [_Item("caption", case, chance, _demos(rng, pool)) for case in cases[_DEMO_POOL:]]


def _icl(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    """Ask for the next item of a series. With no demonstration nothing tells the rule."""
    items = []
    for rule in RULES:
        chance = 1 / len(COLORS) if rule == "color" else 1 / len(SHAPES)
        for _ in range(config.eval_items):
            scenes = [draw_scene(rng, 1) for _ in range(1 + DEMOS)]
            cases = [
                _Case((scene, " ->"), follow(rule, scene.things[0].color, scene.things[0].shape))
                for scene in scenes
            ]
            items.append(_Item(rule, cases[0], chance, tuple(cases[1:])))
    return items


def _knowledge(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    items = []
    for kind in KNOWLEDGE_KINDS:
        for _ in range(config.eval_items):
            qa = knowledge(rng, kind)
            items.append(_Item(kind, _Case((qa.prompt,), qa.answer), qa.chance))
    return items


def _reading(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    items = []
    for kind in SCENE_KINDS:
        for _ in range(config.eval_items):
            question = scene_question(rng, kind)
            case = _Case((reading_text(question),), question.qa.answer)
            items.append(_Item(kind, case, question.qa.chance))
    return items


def _text_icl(rng: np.random.Generator, config: WorldConfig) -> list[_Item]:
    items = []
    for rule in RULES:
        chance = 1 / len(COLORS) if rule == "color" else 1 / len(SHAPES)
        for _ in range(config.eval_items):
            cases = [_Case((text,), answer) for text, answer in series(rng, rule, 1 + DEMOS)]
            items.append(_Item(rule, cases[0], chance, tuple(cases[1:])))
    return items


_SHOTS = (0, 1, 2, 4)
_TASKS = (
    _Task("miniature_vqa", _vqa),
    _Task("miniature_single", _single),
    _Task("miniature_digits", _digits),
    _Task("miniature_caption", _caption, metric="chrf", max_new_tokens=8),
    _Task("miniature_icl", _icl, shots=_SHOTS, stop=";"),
    _Task("miniature_knowledge", _knowledge, blind=False, max_new_tokens=6),
    _Task("miniature_reading", _reading, blind=False),
    _Task("miniature_text_icl", _text_icl, shots=_SHOTS, blind=False, stop=";"),
)
_TRANSFER = _Task("miniature_transfer", _transfer, max_new_tokens=5)
"""Comes last: the draws of the other tasks are the same with it and without it."""
