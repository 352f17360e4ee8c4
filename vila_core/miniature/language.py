"""Train the miniature's base language model: text in which its abilities can be learnt in minutes.

A row of text is of one kind: `series` (the rule is to be read off the row), `induction` (keys and
their names, repeated), `reading` (a scene in words and questions) or `knowledge`. Shapes: B rows, T
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from vila_core.jsonio import digest
from vila_core.miniature.config import LanguageConfig
from vila_core.miniature.questions import MAX_OBJECTS, SCENE_KINDS, SINGLE_KINDS, ask, ask_single
from vila_core.miniature.scenes import draw_scene
from vila_core.miniature.text import RULES, Qa, binding, induction, knowledge, series
from vila_core.miniature.words import words
from vila_core.types import Batch

STREAM = 6
KINDS = ("series", "induction", "reading", "knowledge")
_SINGLE_SHARE = 0.15
_IDS = {word: number for number, word in enumerate(words())}


def build_language_model(config: Mapping[str, Any]) -> LlamaForCausalLM:
    """Return the model with fresh weights; torch's seed decides them."""
    return LlamaForCausalLM(LlamaConfig(**config))


class _Row:
    """Tokens with their loss weights: what can be told from the text so far counts in full."""

    def __init__(self, frame_weight: float) -> None:
        self.ids: list[int] = []
        self.weights: list[float] = []
        self._frame_weight = frame_weight

    def add(self, text: str, *, told: bool) -> None:
        ids = [_IDS[word] for word in text.split()]
        self.ids += ids
        self.weights += [1.0 if told else self._frame_weight] * len(ids)

    def ask(self, qa: Qa) -> None:
        self.add(qa.prompt, told=False)
        self.add(f"{qa.answer} .", told=True)


class RowSource:
    """Rows of text, drawn anew for every step; a step's rows follow from its number alone."""

    def __init__(self, config: LanguageConfig, steps: int) -> None:
        self._config = config
        shares = np.array([phase.share for phase in config.phases])
        self._ends = np.round(np.cumsum(shares / shares.sum()) * steps).astype(int)
        self.fingerprint = digest(
            {"rows": config.model_dump(mode="json", exclude={"model"}), "steps": steps}
        )

    def initial_state(self) -> dict[str, Any]:
        """Return the state before the first step."""
        return {"step": 0}

    def steps(self, state: Mapping[str, Any]) -> Iterator[tuple[list[Batch], dict[str, Any]]]:
        """Yield one batch per step, in the phases of the curriculum; the last one goes on."""
        step = int(state["step"])
        while True:
            number = min(int(np.searchsorted(self._ends, step, "right")), len(self._ends) - 1)
            phase = self._config.phases[number]
            shares = np.array([getattr(phase, kind) for kind in KINDS])
            rng = np.random.default_rng([STREAM, self._config.seed, step])
            step += 1
            yield [self._batch(rng, shares / shares.sum())], {"step": step}

    def _batch(self, rng: np.random.Generator, shares: np.ndarray) -> Batch:
        config = self._config
        ids_BT = np.zeros((config.rows, config.row_tokens), dtype=np.int64)
        weights_BT = np.zeros((config.rows, config.row_tokens), dtype=np.float32)
        for number in range(config.rows):
            row = self._row(rng, KINDS[rng.choice(len(KINDS), p=shares)])
            length = min(len(row.ids), config.row_tokens)
            ids_BT[number, :length] = row.ids[:length]
            weights_BT[number, :length] = row.weights[:length]
        tensors = {
            "input_ids": torch.from_numpy(ids_BT),
            "loss_weights": torch.from_numpy(weights_BT),
        }
        supervised = float(weights_BT[:, 1:].sum(dtype=np.float64))
        return Batch(tensors, supervised, num_tokens=ids_BT.size)

    def _row(self, rng: np.random.Generator, kind: str) -> _Row:
        row = _Row(self._config.frame_weight)
        enough = self._config.row_tokens
        if kind in ("series", "induction"):
            for prompt, answer in _items(rng, kind, self._config.binding_share, enough):
                row.add(prompt, told=False)
                row.add(f"{answer} ;", told=True)
        while len(row.ids) < enough and kind == "knowledge":
            row.ask(knowledge(rng))
        if kind == "reading":
            _read(rng, row, enough)
        return row


def _items(
    rng: np.random.Generator, kind: str, binding_share: float, tokens: int
) -> list[tuple[str, str]]:
    """Return enough items to fill a row; the shortest has four tokens."""
    count = tokens // 4
    if kind == "induction":
        return induction(rng, count)
    if rng.random() < binding_share:
        return binding(rng, count)
    return series(rng, RULES[rng.integers(len(RULES))], count)


def _read(rng: np.random.Generator, row: _Row, tokens: int) -> None:
    """Fill the row with one scene in words and questions about it.

    One scene only: rows have no boundaries inside, and another scene would be in the way.
    """
    if rng.random() < _SINGLE_SHARE:
        scene = draw_scene(rng, 1)
        asked = [ask_single(scene, kind) for kind in SINGLE_KINDS]
        asked.append(ask(rng, scene, "count"))
    else:
        scene = draw_scene(rng, int(rng.integers(1, MAX_OBJECTS + 1)), distinct=True)
        asked = [ask(rng, scene, kind) for kind in SCENE_KINDS for _ in scene.things]
    row.add(f"scene {scene.caption} .", told=False)
    for number in rng.permutation(len(asked)):
        if len(row.ids) >= tokens:
            return
        row.ask(asked[number])


def weighted_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the next-token loss, summed with the rows' loss weights."""
    from vila_core.train.loss import next_token_loss

    ids_BT = batch.tensors["input_ids"]
    logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    return next_token_loss(logits_BTV, ids_BT, batch.tensors["loss_weights"])
