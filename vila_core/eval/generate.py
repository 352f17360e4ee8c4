"""Greedy answers in left-padded batches with a KV cache, the same as one by one.

Shape letters: B prompts of a batch, T tokens, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vila_core.eval.prompts import Prompt

LoadImage = Callable[[Any], torch.Tensor]


@dataclass
class Generator:
    """Answers prompts with one model.

    `model` is any causal language model of transformers, ours with images or a plain one. `expand`
    repeats `<image>` per visual token; `load_image` returns an image as (3, H, W); both are unused
    for prompts without images.
    """

    model: Any
    tokenizer: Any
    expand: Callable[[str], str] = str
    load_image: LoadImage | None = None
    batch_size: int = 128

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: str, blind: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield (index of the prompt, answer), batch by batch, the shortest prompts first.

        An answer ends before `stop`, at the end token, or after `max_new_tokens`. `blind` replaces
        every image by the mean colour (zeros after normalisation).
        """
        ids = [self.tokenizer(self.expand(prompt.text))["input_ids"] for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda n: (len(ids[n]), n))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            pixels = self._pixels([prompts[n] for n in batch], blind)
            rows = self._greedy([ids[n] for n in batch], pixels, max_new_tokens, stop)
            for n, row in zip(batch, rows, strict=True):
                text = self.tokenizer.decode(row, skip_special_tokens=True)
                yield n, text.partition(stop)[0].strip()

    def _pixels(self, prompts: Sequence[Prompt], blind: bool) -> torch.Tensor | None:
        images = [image for prompt in prompts for image in prompt.images]
        if not images or self.load_image is None:
            return None
        loaded = {image: self.load_image(image) for image in dict.fromkeys(images)}
        pixels_NCHW = torch.stack([loaded[image] for image in images])
        return torch.zeros_like(pixels_NCHW) if blind else pixels_NCHW

    @torch.inference_mode()
    def _greedy(
        self, ids: Sequence[list[int]], pixels: torch.Tensor | None, limit: int, stop: str
    ) -> list[list[int]]:
        """Return the new tokens of each prompt. Its own loop: transformers' costs more per step."""
        device = next(self.model.parameters()).device
        ends = self._end_ids(stop)
        pad = self.tokenizer.pad_token_id or 0
        longest = max(map(len, ids))
        tokens_BT = torch.tensor([[pad] * (longest - len(row)) + row for row in ids], device=device)
        mask_BT = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=device
        )
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        extra = {} if pixels is None else {"pixel_values": pixels.to(device)}
        new: list[list[int]] = [[] for _ in ids]
        running = torch.ones(len(ids), dtype=torch.bool, device=device)
        cache = None
        for _ in range(limit):
            out = self.model(
                input_ids=tokens_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **extra,
            )
            cache, extra = out.past_key_values, {}
            next_B = out.logits[:, -1].argmax(-1)
            for row, token, goes_on in zip(new, next_B.tolist(), running.tolist(), strict=True):
                if goes_on:
                    row.append(token)
            running &= ~torch.isin(next_B, ends.to(device))
            if not running.any():
                break
            tokens_BT = next_B[:, None]
            mask_BT = torch.cat([mask_BT, torch.ones_like(tokens_BT)], dim=1)
            positions_BT = positions_BT[:, -1:] + 1
        return new

    def _end_ids(self, stop: str) -> torch.Tensor:
        """Return the tokens that end an answer: the end token, and `stop` where it is one token."""
        ids = self.tokenizer(stop, add_special_tokens=False)["input_ids"]
        ends = [*(ids if len(ids) == 1 else []), self.tokenizer.eos_token_id]
        return torch.tensor([end for end in ends if end is not None], dtype=torch.int64)
