"""Greedy answers in left-padded batches with a KV cache, the same as one by one.

Shape letters: B prompts of a batch, T tokens, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vila_core.errors import UserError
from vila_core.eval.answerer import Answer
from vila_core.eval.files import ImageRef
from vila_core.eval.prompts import Prompt

LoadImage = Callable[[ImageRef], torch.Tensor]


@dataclass
class Generator:
    """Answers prompts with one model.

    `model` is any causal language model of transformers, ours with images or a plain one. `expand`
    repeats `<image>` per visual token; `load_image` returns an image as (3, H, W); both are unused
    for prompts without images. A batch has at most `batch_size` prompts and `batch_tokens` tokens,
    padding and answers included; a longer prompt is a batch of its own.
    """

    model: Any
    tokenizer: Any
    expand: Callable[[str], str] = str
    load_image: LoadImage | None = None
    batch_size: int = 128
    batch_tokens: int = 32_768
    _grey: torch.Tensor | None = field(default=None, init=False, repr=False)
    _has_stop: dict[tuple[str, int], bool] = field(default_factory=dict, init=False, repr=False)

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, stop: str, blind: bool = False
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield batches of (index of the prompt, answer), the shortest prompts first.

        An answer ends before `stop`, at the end token, or after `max_new_tokens`. `blind` replaces
        every image by the mean colour (zeros after normalisation). Raises UserError for a prompt
        that has no tokens, or more than the model has positions.
        """
        if not prompts:
            return
        ids = self.tokenizer([self.expand(prompt.text) for prompt in prompts])["input_ids"]
        for prompt, row in zip(prompts, ids, strict=True):
            self._check_length(prompt, len(row), max_new_tokens)
        for batch in self._batches([len(row) for row in ids], max_new_tokens):
            pixels = self._pixels([prompts[n] for n in batch], blind)
            rows = self._greedy([ids[n] for n in batch], pixels, max_new_tokens, stop)
            yield [(n, self._answer(row, stop)) for n, row in zip(batch, rows, strict=True)]

    def _check_length(self, prompt: Prompt, length: int, max_new_tokens: int) -> None:
        what = f"{prompt.where or repr(prompt.text[:60])}: the prompt"
        if not length:
            raise UserError(f"{what} has no tokens; write a question or drop the item")
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and length + max_new_tokens > most:
            raise UserError(
                f"{what} has {length} tokens, which with {max_new_tokens} new ones is more than "
                f"the model's {most} positions; ask with fewer shots or drop the item"
            )

    def _batches(self, lengths: Sequence[int], max_new_tokens: int) -> Iterator[list[int]]:
        """Yield the prompts' numbers, shortest first: a batch is padded to its last prompt."""
        batch: list[int] = []
        for n in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
            tokens = (len(batch) + 1) * (lengths[n] + max_new_tokens)
            if batch and (len(batch) == self.batch_size or tokens > self.batch_tokens):
                yield batch
                batch = []
            batch.append(n)
        yield batch

    def _pixels(self, prompts: Sequence[Prompt], blind: bool) -> torch.Tensor | None:
        images = [image for prompt in prompts for image in prompt.images]
        if not images or self.load_image is None:
            return None
        if blind:
            if self._grey is None:
                self._grey = torch.zeros_like(self.load_image(images[0]))
            return self._grey.expand(len(images), -1, -1, -1)
        loaded = {image: self.load_image(image) for image in dict.fromkeys(images)}
        return torch.stack([loaded[image] for image in images])

    @torch.inference_mode()
    def _greedy(
        self, ids: Sequence[list[int]], pixels: torch.Tensor | None, limit: int, stop: str
    ) -> list[list[int]]:
        """Return the new tokens of each prompt.

        A loop of its own, since `generate` obeys the generation config that a model brings along:
        a repetition penalty there changes answers that are called greedy.
        """
        device = next(self.model.parameters()).device
        end_ids = self._end_ids()
        pad = self.tokenizer.pad_token_id or 0
        longest = max(map(len, ids))
        tokens_BT = torch.tensor([[pad] * (longest - len(row)) + row for row in ids], device=device)
        mask_BT = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=device
        )
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        extra = {} if pixels is None else {"pixel_values": pixels.to(device)}
        new: list[list[int]] = [[] for _ in ids]
        running = set(range(len(ids)))
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
            tokens = next_B.tolist()
            for n in list(running):
                new[n].append(tokens[n])
                if tokens[n] in end_ids or self._stops(new[n], stop):
                    running.discard(n)
            if not running:
                break
            # Finished rows stay: the answers of a batch are about equally long.
            tokens_BT = next_B[:, None]
            mask_BT = torch.cat([mask_BT, torch.ones_like(tokens_BT)], dim=1)
            positions_BT = positions_BT[:, -1:] + 1
        return new

    def _answer(self, row: Sequence[int], stop: str) -> Answer:
        text, stopped, _ = self.tokenizer.decode(row, skip_special_tokens=True).partition(stop)
        ended = row[-1] in self._end_ids() or self._stops(row, stop)
        return Answer(text.strip(), bool(stopped) or ended)

    def _stops(self, row: Sequence[int], stop: str) -> bool:
        """Tell whether the newest token completes the stop text: alone, or with those before it."""
        known = (stop, row[-1])
        if known not in self._has_stop:
            self._has_stop[known] = stop in self.tokenizer.decode([row[-1]])
        return self._has_stop[known] or (len(stop) > 1 and stop in self.tokenizer.decode(row))

    def _end_ids(self) -> set[int]:
        """Return the end tokens: the tokenizer's, and those of the model's generation config."""
        config = getattr(self.model, "generation_config", None)
        more = getattr(config, "eos_token_id", None)
        more = more if isinstance(more, list) else [more]
        return {end for end in (self.tokenizer.eos_token_id, *more) if end is not None}
