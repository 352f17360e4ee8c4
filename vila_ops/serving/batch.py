"""Answers that are written together: rows join and leave between any two tokens.

Rows end together and are padded on the left, as in evaluation (`vila_core.eval.batches`): positions
count from each row's own first token, and what is padding is never attended to. So a row's tokens
don't depend on who else is there.

Shape letters: B rows, T columns, H heads, D width of a head, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from vila_core.eval.batches import left_padded

ROOM = 64
"""Columns that a cache is made larger than it has to be: else each token would copy all of it."""


class RoomyLayer(CacheLayerMixin):
    """Keys and values (B, H, T, D) of one layer, with room behind them."""

    is_sliding = False

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take shapes, types and device from the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states[:, :, :0]
        self.values = value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add columns; return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start, self.length = self.length, self.length + key_states.shape[-2]
        if self.length > self.keys.shape[-2]:
            self.keys = _roomier(self.keys, start, self.length + ROOM)
            self.values = _roomier(self.values, start, self.length + ROOM)
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns a mask has, and the first one's number."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many columns there are."""
        return self.length

    def get_max_length(self) -> int:
        """Return -1: there is no largest length."""
        return -1

    def take(self, rows: torch.Tensor, skipped: int) -> None:
        """Keep some rows, less the first columns, which only padding of others needed."""
        assert self.keys is not None
        assert self.values is not None
        self.keys = self.keys[rows, :, skipped:]
        self.values = self.values[rows, :, skipped:]
        self.length -= skipped

    def above(self, other: RoomyLayer) -> RoomyLayer:
        """Return a layer with another batch's rows below, both ending in the same column."""
        assert self.keys is not None
        assert self.values is not None
        assert other.keys is not None
        assert other.values is not None
        made = RoomyLayer()
        made.lazy_initialization(self.keys, self.values)
        made.length = max(self.length, other.length)
        made.keys = _stacked(self.keys, self.length, other.keys, other.length)
        made.values = _stacked(self.values, self.length, other.values, other.length)
        return made


class Rows:
    """The model's state for the rows of a batch: caches, and how long each row is."""

    def __init__(self, model: Any, pad: int) -> None:
        self._model = model
        self._pad = pad
        self._device = next(model.parameters()).device
        self._cache: Cache | None = None
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def width(self) -> int:
        """Columns in use."""
        return max(self._lengths, default=0)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]], features: torch.Tensor | None) -> torch.Tensor:
        """Read prompts, whose rows come below the others'; return their next logits (B, V).

        `features` holds what the tower saw on their images, in reading order. Nothing has changed
        when this fails.
        """
        padded = left_padded(prompts, self._pad, self._device)
        cache = Cache(layer_class_to_replicate=RoomyLayer)
        shown = {} if features is None else {"tower_features": features}
        logits_BV = self._run(cache, *padded, **shown)
        if self._cache is not None:
            pairs = zip(self._cache.layers, cache.layers, strict=True)
            layers = [mine.above(new) for mine, new in pairs]  # type: ignore[attr-defined, arg-type]
            cache = Cache(layers=layers)
        self._cache = cache
        self._lengths += map(len, prompts)
        return logits_BV

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add a token to each row; return the logits of the ones after them (B, V)."""
        assert self._cache is not None
        width = self.width + 1
        length_B1 = torch.tensor(self._lengths, device=self._device)[:, None]
        column_T = torch.arange(width, device=self._device)
        mask_BT = (column_T >= width - 1 - length_B1).long()
        tokens_B1 = torch.tensor(tokens, device=self._device)[:, None]
        logits_BV = self._run(self._cache, tokens_B1, mask_BT, length_B1)
        self._lengths = [length + 1 for length in self._lengths]
        return logits_BV

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows but these leave."""
        if len(rows) == len(self._lengths):
            return
        if not rows or self._cache is None:
            self._cache, self._lengths = None, []
            return
        width = self.width
        self._lengths = [self._lengths[row] for row in rows]
        rows_B = torch.tensor(rows, device=self._device)
        for layer in self._cache.layers:
            assert isinstance(layer, RoomyLayer)
            layer.take(rows_B, width - self.width)

    def _run(
        self,
        cache: Cache,
        tokens_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        positions_BT: torch.Tensor,
        **shown: torch.Tensor,
    ) -> torch.Tensor:
        out = self._model(
            input_ids=tokens_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **shown,
        )
        return out.logits[:, -1]


def _roomier(kept: torch.Tensor, length: int, columns: int) -> torch.Tensor:
    made = kept.new_empty((*kept.shape[:2], columns, kept.shape[-1]))
    made[:, :, :length] = kept[:, :, :length]
    return made


def _stacked(
    above: torch.Tensor, its_length: int, below: torch.Tensor, length: int
) -> torch.Tensor:
    rows, width = len(above), max(its_length, length)
    # Zeros, since padding is multiplied by zero: what is left in memory might be no number.
    made = above.new_zeros((rows + len(below), above.shape[1], width + ROOM, above.shape[-1]))
    made[:rows, :, width - its_length : width] = above[:, :, :its_length]
    made[rows:, :, width - length : width] = below[:, :, :length]
    return made
