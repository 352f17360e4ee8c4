"""Greedy answers and likelihoods in padded batches with a KV cache, the same as one by one.

Shape letters: B prompts of a batch, T tokens, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch

from vila_core.errors import UserError
from vila_core.eval import batches
from vila_core.eval.answerer import Answer
from vila_core.eval.files import ImageRef
from vila_core.eval.image_cache import ImageFeatures
from vila_core.eval.items import IMAGE
from vila_core.eval.likelihood import Scored, common_prefix, continue_from
from vila_core.eval.prompts import Prompt

LoadImage = Callable[[ImageRef], torch.Tensor]


class ChatLayout(Protocol):
    """How a model's conversations are laid out; `vila_core.data.asking.Layout` is one."""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer has still to put its special tokens (BOS) in front."""
        ...

    @property
    def end(self) -> str:
        """What ends an answer; empty where that is the tokenizer's end token."""
        ...

    def lay_out(self, exchanges: Sequence[tuple[str, str | None]], /) -> str:
        """Return user texts and answers in one text, up to where the last answer, None, starts."""
        ...


@dataclass
class Generator:
    """Answers prompts with one model; an `Answerer`.

    `model` is any causal language model of transformers, ours with images or a plain one. `expand`
    repeats `<image>` per visual token; `load_image` returns an image as (3, H, W); without it the
    model can't see. A batch has at most `batch_size` prompts and `batch_tokens` tokens, padding and
    answers included; a longer prompt is a batch of its own. `layout` writes conversations; without
    it only plain prompts can be asked. `identity` names the model in results. With `see`, the
    vision tower alone, images that are shown again don't go through it again: the model must then
    take `tower_features` (N, P, C) in place of `pixel_values`.
    """

    model: Any
    tokenizer: Any
    expand: Callable[[str], str] = str
    load_image: LoadImage | None = None
    batch_size: int = 128
    batch_tokens: int = 32_768
    layout: ChatLayout | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    see: Callable[[torch.Tensor], torch.Tensor] | None = None
    _features: ImageFeatures | None = field(default=None, init=False, repr=False)
    _grey: torch.Tensor | None = field(default=None, init=False, repr=False)
    _has_stop: dict[tuple[str, int], bool] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.see is not None and self.load_image is not None:
            self._features = ImageFeatures(self.load_image, self.see)

    @property
    def sees(self) -> bool:
        """Whether it can be shown images."""
        return self.load_image is not None

    def describe(self) -> dict[str, str]:
        """Return `identity` and the precision of the weights."""
        precision = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return {**self.identity, "precision": precision, "decoding": "greedy"}

    def written(self, prompt: Prompt) -> Prompt:
        """Return the prompt with a conversation laid out. Raises UserError without a layout."""
        if not prompt.turns:
            return prompt
        if self.layout is None:
            raise UserError(
                f"{prompt.where or 'the prompt'}: is a conversation, but the model has no chat "
                "template; ask with the plain layout"
            )
        text = self.layout.lay_out([(turn.user, turn.answer) for turn in prompt.turns])
        return replace(prompt, text=text)

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        stop: str | None,
        blind: bool = False,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield batches of (index of the prompt, answer), the shortest prompts first.

        An answer ends before `stop`, where the layout ends an answer, at the end token, or after
        `max_new_tokens`. `blind` replaces every image by the mean colour (zeros after
        normalisation). Raises UserError for a prompt that has no tokens, or more than the model has
        positions, or images that can't be shown.
        """
        if not prompts:
            return
        ids = self._encode(prompts)
        for prompt, row in zip(prompts, ids, strict=True):
            self._check(prompt, len(row), max_new_tokens)
        stops = [self._stops_of(prompt, stop) for prompt in prompts]
        sizes = [(1, len(row) + max_new_tokens) for row in ids]
        for batch in batches.by_length(sizes, self.batch_size, self.batch_tokens):
            shown = self._shown([prompts[n] for n in batch], blind)
            of_batch = [stops[n] for n in batch]
            rows = self._greedy([ids[n] for n in batch], shown, max_new_tokens, of_batch)
            yield [
                (n, self._answer(row, its_stops))
                for n, row, its_stops in zip(batch, rows, of_batch, strict=True)
            ]

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool = False
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield batches of (index, log-likelihood of each of the prompt's choices), in nats.

        A choice is appended to the prompt's text as it is: its leading blank, if any, is its own.
        Raises UserError as `answers` does, and for a choice without tokens.
        """
        for batch in self.scored(prompts, choices, blind=blind):
            yield [(n, [one.nats for one in scores]) for n, scores in batch]

    def scored(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool = False
    ) -> Iterator[list[tuple[int, list[Scored]]]]:
        """Yield as `likelihoods` does, with the number of tokens, and whether greedy says them.

        What the choices of a prompt share, images and demonstrations, is computed once; then each
        choice goes on from the cache.
        """
        tails: list[list[list[int]]] = []
        heads: list[list[int]] = []
        texts = self._encode(prompts)
        for prompt, ids, options in zip(prompts, texts, choices, strict=True):
            # Encoded with the prompt: its end may decide how the choice is cut into tokens.
            wholes = self._encode([replace(prompt, text=prompt.text + one) for one in options])
            ids, wholes = self._started(prompt, ids, wholes)
            shared = common_prefix([ids, *wholes])
            heads.append(ids[:shared])
            tails.append([whole[shared:] for whole in wholes])
            for option, tail in zip(options, tails[-1], strict=True):
                if not tail:
                    raise UserError(
                        f"{_where(prompt)}: the choice {option!r} has no tokens; drop it"
                    )
            self._check(prompt, shared, max((len(tail) for tail in tails[-1]), default=0))
        sizes = [
            (len(its), len(head) + max(map(len, its), default=0))
            for head, its in zip(heads, tails, strict=True)
        ]
        for batch in batches.by_length(sizes, self.batch_size, self.batch_tokens):
            shown = self._shown([prompts[n] for n in batch], blind)
            padded = batches.left_padded([heads[n] for n in batch], self._pad, self._device)
            found = continue_from(self.model, padded, shown, [tails[n] for n in batch])
            yield list(zip(batch, found, strict=True))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _pad(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the tokens of each prompt, `<image>` repeated per visual token."""
        ids: list[list[int]] = [[] for _ in prompts]
        for special in (True, False):
            some = [n for n, prompt in enumerate(prompts) if self._adds_special(prompt) == special]
            if some:
                texts = [self.expand(prompts[n].text) for n in some]
                encoded = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
                for n, row in zip(some, encoded, strict=True):
                    ids[n] = row
        return ids

    def _adds_special(self, prompt: Prompt) -> bool:
        return not prompt.turns or self.layout is None or self.layout.adds_special_tokens

    def _started(
        self, prompt: Prompt, ids: list[int], wholes: list[list[int]]
    ) -> tuple[list[int], list[list[int]]]:
        """Put a token before a text that has none to be predicted from: BOS, else the end token."""
        if ids and common_prefix([ids, *wholes]):
            return ids, wholes
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise _no_tokens(prompt)
        return [start, *ids], [[start, *whole] for whole in wholes]

    def _check(self, prompt: Prompt, length: int, more: int) -> None:
        what = f"{_where(prompt)}: the prompt"
        if not length:
            raise _no_tokens(prompt)
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and length + more > most:
            raise UserError(
                f"{what} has {length} tokens, which with {more} new ones is more than "
                f"the model's {most} positions; ask with fewer shots or drop the item"
            )
        if prompt.images and not self.sees:
            raise UserError(f"{what} shows an image, but the model can't see; drop the item")
        places = prompt.text.count(IMAGE)
        if self.sees and places != len(prompt.images):
            raise UserError(
                f"{what} has {places} {IMAGE} places for {len(prompt.images)} images; give each "
                "image its place"
            )

    def _shown(self, prompts: Sequence[Prompt], blind: bool) -> dict[str, torch.Tensor]:
        """Return the prompts' images, in order, as the model's arguments; none without images."""
        images = [image for prompt in prompts for image in prompt.images]
        if not images or self.load_image is None:
            return {}
        if self._features is not None:
            return {"tower_features": self._features.of(images, blind, self._device)}
        if blind:
            if self._grey is None:
                self._grey = torch.zeros_like(self.load_image(images[0]))
            pixels = self._grey.expand(len(images), -1, -1, -1)
        else:
            loaded = {image: self.load_image(image) for image in dict.fromkeys(images)}
            pixels = torch.stack([loaded[image] for image in images])
        return {"pixel_values": pixels.to(self._device)}

    @torch.inference_mode()
    def _greedy(
        self,
        ids: Sequence[list[int]],
        shown: Mapping[str, torch.Tensor],
        limit: int,
        stops: Sequence[Sequence[str]],
    ) -> list[list[int]]:
        """Return the new tokens of each prompt.

        A loop of its own, since `generate` obeys the generation config that a model brings along:
        a repetition penalty there changes answers that are called greedy.
        """
        tokens_BT, mask_BT, positions_BT = batches.left_padded(ids, self._pad, self._device)
        end_ids = self._end_ids()
        extra = dict(shown)
        new: list[list[int]] = [[] for _ in ids]
        rows, running = list(range(len(ids))), set(range(len(ids)))
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
            for n, token in zip(rows, next_B.tolist(), strict=True):
                if n in running:
                    new[n].append(token)
                    if token in end_ids or self._stopped(new[n], stops[n]):
                        running.discard(n)
            if not running:
                break
            mask_BT = torch.cat([mask_BT, torch.ones_like(next_B)[:, None]], dim=1)
            positions_BT = positions_BT[:, -1:] + 1
            if cache is not None and 2 * len(running) <= len(rows):
                # Few long answers shall not carry the finished rows along.
                kept = [place for place, n in enumerate(rows) if n in running]
                rows = [rows[place] for place in kept]
                kept_B = torch.tensor(kept, device=self._device)
                cache.reorder_cache(kept_B)
                next_B, mask_BT = next_B[kept_B], mask_BT[kept_B]
                positions_BT = positions_BT[kept_B]
            tokens_BT = next_B[:, None]
        return new

    def _stops_of(self, prompt: Prompt, stop: str | None) -> tuple[str, ...]:
        """Return the texts that end the prompt's answer."""
        of_layout = self.layout.end if prompt.turns and self.layout is not None else ""
        return tuple(dict.fromkeys(text for text in (stop, of_layout) if text))

    def _answer(self, row: Sequence[int], stops: Sequence[str]) -> Answer:
        text = self.tokenizer.decode(row, skip_special_tokens=True)
        ended = row[-1] in self._end_ids() or self._stopped(row, stops)
        for stop in stops:
            text, stopped, _ = text.partition(stop)
            ended = ended or bool(stopped)
        return Answer(text.strip(), ended)

    def _stopped(self, row: Sequence[int], stops: Sequence[str]) -> bool:
        return any(self._stops(row, stop) for stop in stops)

    def _stops(self, row: Sequence[int], stop: str) -> bool:
        """Tell whether the newest token completes the stop text: alone, or with those before it."""
        known = (stop, row[-1])
        if known not in self._has_stop:
            self._has_stop[known] = stop in self._read([row[-1]], stop)
        if self._has_stop[known]:
            return True
        # The newest tokens are enough, and decoding all at every step would be quadratic.
        return len(stop) > 1 and stop in self._read(row[-4 * len(stop) :], stop)

    def _read(self, row: Sequence[int], stop: str) -> str:
        """Return the text to look for `stop` in: names of special tokens are none, but as stops."""
        skip = not any(name in stop for name in self._special)
        return self.tokenizer.decode(row, skip_special_tokens=skip)

    @cached_property
    def _special(self) -> frozenset[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset(token.content for token in added if token.special)

    def _end_ids(self) -> set[int]:
        """Return the end tokens: the tokenizer's, and those of the model's generation config."""
        config = getattr(self.model, "generation_config", None)
        more = getattr(config, "eos_token_id", None)
        more = more if isinstance(more, list) else [more]
        return {end for end in (self.tokenizer.eos_token_id, *more) if end is not None}


def _where(prompt: Prompt) -> str:
    return prompt.where or repr(prompt.text[:60])


def _no_tokens(prompt: Prompt) -> UserError:
    return UserError(
        f"{_where(prompt)}: the prompt has no tokens; write a question or drop the item"
    )
