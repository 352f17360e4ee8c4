"""Any image-text-to-text model of transformers, asked through its own processor.

Shape letters: B rows of a batch, T tokens, V words.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from vila_core.errors import UserError
from vila_core.eval.adapters.conversation import Writer, where
from vila_core.eval.answerer import Answer
from vila_core.eval.files import ImageRef, read_image
from vila_core.eval.likelihood import common_prefix
from vila_core.eval.prompts import Prompt
from vila_core.images import BadImage, decode


class TransformersAnswerer:
    """Answers prompts with a model of transformers in left-padded batches; an `Answerer`.

    `processor` is the model's own; it turns text and images into tensors. Conversations are written
    by its chat template. Decoding is greedy whatever the model's generation config says: this sets
    `model.generation_config`. `identity` names the model in results.
    """

    sees = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int = 16,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.batch_size = batch_size
        self._identity = dict(identity or {})
        self._tokenizer = processor.tokenizer
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._writer = Writer(processor)
        self._ends = _end_ids(model, self._tokenizer)
        model.generation_config = _greedy(model.generation_config, self._ends, self._tokenizer)

    def describe(self) -> dict[str, str]:
        """Return `identity`, the model's class, its chat template's source and its precision."""
        return {
            **self._identity,
            "kind": "transformers",
            "class": type(self.model).__name__,
            "template": "processor",
            "precision": str(self.model.dtype).removeprefix("torch."),
            "decoding": "greedy",
        }

    def written(self, prompt: Prompt) -> Prompt:
        """Return the prompt as the processor takes it, with the model's own image marks."""
        return replace(prompt, text=self._writer.write(prompt))

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        stop: str | None,
        blind: bool = False,
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield batches of (index of the prompt, answer), the shortest prompts first."""
        for batch in self._batches([(1, prompt) for prompt in prompts]):
            some = [prompts[n] for n in batch]
            inputs = self._inputs(some, [p.text for p in some], blind, side="left")
            self._check(some, inputs["attention_mask"], max_new_tokens)
            criteria = [_StopText(self._tokenizer, stop, inputs["input_ids"].shape[1])]
            with torch.inference_mode():
                out = self.model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    stopping_criteria=StoppingCriteriaList(criteria if stop else []),
                )
            new = out[:, inputs["input_ids"].shape[1] :].tolist()
            yield [(n, self._answer(row, stop)) for n, row in zip(batch, new, strict=True)]

    def likelihoods(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[str]], *, blind: bool = False
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield batches of (index, log-likelihood of each choice), in nats.

        Choices of one token (letters) come from one pass over the prompt. Longer ones are passed
        with their prompt each: models of transformers differ too much in how they count positions
        behind images to go on from a cache.
        """
        tails = [self._tails(prompt, its) for prompt, its in zip(prompts, choices, strict=True)]
        sizes = [
            (1 if letters else len(its), prompt)
            for prompt, (letters, its) in zip(prompts, tails, strict=True)
        ]
        for batch in self._batches(sizes):
            rows: list[tuple[int, str, list[int]]] = []
            for n in batch:
                letters, its = tails[n]
                text = prompts[n].text
                if letters:
                    rows.append((n, text, []))
                else:
                    rows += [
                        (n, text + one, tail) for one, tail in zip(choices[n], its, strict=True)
                    ]
            found: dict[int, list[float]] = {n: [] for n in batch}
            if rows:
                some = [prompts[n] for n, _, _ in rows]
                inputs = self._inputs(some, [text for _, text, _ in rows], blind, side="right")
                self._check(some, inputs["attention_mask"], 0)
                wanted = [len(tail) + (not tail) for _, _, tail in rows]
                nats = self._nats(inputs, wanted, [not tail for _, _, tail in rows])
                for (n, _, tail), nats_TV in zip(rows, nats, strict=True):
                    if tail:
                        at = torch.tensor(tail, device=nats_TV.device)[:, None]
                        found[n].append(nats_TV.gather(-1, at).double().sum().item())
                    else:
                        found[n] = [nats_TV[0, one[0]].item() for one in tails[n][1]]
            yield list(found.items())

    def _tails(self, prompt: Prompt, options: Sequence[str]) -> tuple[bool, list[list[int]]]:
        """Return the choices' own tokens, and whether each is one token behind the whole prompt."""
        special = self._adds_special([prompt.text])
        texts = [prompt.text, *(prompt.text + one for one in options)]
        head, *wholes = self._tokenizer(texts, add_special_tokens=special)["input_ids"]
        shared = common_prefix([head, *wholes])
        tails = [whole[shared:] for whole in wholes]
        for option, tail in zip(options, tails, strict=True):
            if not tail:
                raise UserError(f"{where(prompt)}: the choice {option!r} has no tokens; drop it")
        return shared == len(head) and all(len(tail) == 1 for tail in tails), tails

    def _nats(
        self, inputs: Mapping[str, Any], wanted: Sequence[int], after: Sequence[bool]
    ) -> list[torch.Tensor]:
        """Return each right-padded row's log-probabilities (T, V) of its last `wanted` tokens.

        `after`: of the token that would follow the row instead.
        """
        lengths = inputs["attention_mask"].sum(1).tolist()
        spans = [
            range(length - 1 + follows - count, length - 1 + follows)
            for length, count, follows in zip(lengths, wanted, after, strict=True)
        ]
        places = sorted({t for span in spans for t in span})
        extra = {}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            extra["logits_to_keep"] = torch.tensor(places, device=self.model.device)
        else:
            places = list(range(inputs["input_ids"].shape[1]))
        with torch.inference_mode():
            logits_BTV = self.model(**inputs, use_cache=False, **extra).logits
        order = {t: place for place, t in enumerate(places)}
        return [
            logits_BTV[b, [order[t] for t in span]].float().log_softmax(-1)
            for b, span in enumerate(spans)
        ]

    def _batches(self, sizes: Sequence[tuple[int, Prompt]]) -> Iterator[list[int]]:
        """Yield prompts' numbers, alike in length; with and without images never together."""
        batch: list[int] = []
        rows = 0
        seeing = False
        keys = [
            (len(p.images) > 0, len(p.images), len(p.text), n) for n, (_, p) in enumerate(sizes)
        ]
        for has_images, _, _, n in sorted(keys):
            more = sizes[n][0]
            if batch and (rows + more > self.batch_size or has_images != seeing):
                yield batch
                batch, rows = [], 0
            batch.append(n)
            rows, seeing = rows + more, has_images
        if batch:
            yield batch

    def _inputs(
        self, prompts: Sequence[Prompt], texts: Sequence[str], blind: bool, side: str
    ) -> Mapping[str, Any]:
        for prompt in prompts:
            self._writer.check(prompt)
        known: dict[ImageRef, Image.Image] = {}
        shown = [[self._shown(image, blind, known) for image in p.images] for p in prompts]
        inputs = self.processor(
            text=list(texts),
            images=shown if any(shown) else None,
            padding=True,
            padding_side=side,
            add_special_tokens=self._adds_special(texts),
            return_tensors="pt",
        )
        return inputs.to(self.model.device, self.model.dtype)

    def _shown(
        self, image: ImageRef, blind: bool, known: dict[ImageRef, Image.Image]
    ) -> Image.Image:
        if image not in known:
            try:
                known[image] = decode(read_image(image)).convert("RGB")
            except BadImage as error:
                raise UserError(
                    f"{image}: {error}; replace it or drop the items that show it"
                ) from None
            if blind:  # the same size: some processors make more tokens of larger images
                known[image] = Image.new("RGB", known[image].size, (127, 127, 127))
        return known[image]

    def _adds_special(self, texts: Sequence[str]) -> bool:
        """Tell whether BOS is still missing: chat templates mostly write it themselves."""
        bos = self._tokenizer.bos_token
        return not (bos and all(text.startswith(bos) for text in texts))

    def _check(self, prompts: Sequence[Prompt], mask: torch.Tensor, more: int) -> None:
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for prompt, length in zip(prompts, mask.sum(1).tolist(), strict=True):
            if not length:
                raise UserError(f"{where(prompt)}: the prompt has no tokens; write a question")
            if most is not None and length + more > most:
                raise UserError(
                    f"{where(prompt)}: the prompt has {length} tokens, which with {more} new ones "
                    f"is more than the model's {most} positions; ask with fewer shots or drop the "
                    "item"
                )

    def _answer(self, row: list[int], stop: str | None) -> Answer:
        ends = [place for place, token in enumerate(row) if token in self._ends]
        text = self._tokenizer.decode(row[: ends[0]] if ends else row, skip_special_tokens=True)
        text, stopped, _ = text.partition(stop) if stop else (text, "", "")
        return Answer(text.strip(), bool(ends or stopped))


def open_transformers(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 16,
    identity: Mapping[str, str] | None = None,
) -> TransformersAnswerer:
    """Open the model and the processor in a local folder, without running code from there.

    Raises UserError for a folder that holds no image-text-to-text model with safetensors weights,
    or no processor.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True
        )
        processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder}: can't be loaded as a vision-language model of transformers with its "
            f"processor: {reason}"
        ) from None
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UserError(
            f"{folder}: its processor takes no images; put the model's processor_config.json "
            "and preprocessor_config.json there"
        )
    model = model.to(device).eval()
    return TransformersAnswerer(model, processor, batch_size=batch_size, identity=identity)


class _StopText(StoppingCriteria):
    """Ends a row as soon as its new text holds the stop text."""

    def __init__(self, tokenizer: Any, stop: str | None, start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop or "", start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        tail = max(self._start, input_ids.shape[1] - 4 * len(self._stop))
        texts = self._tokenizer.batch_decode(input_ids[:, tail:])
        return torch.tensor([self._stop in text for text in texts], device=input_ids.device)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return the end tokens: the tokenizer's, and those of the model's generation config."""
    more = model.generation_config.eos_token_id
    more = more if isinstance(more, list) else [more]
    return sorted({end for end in (tokenizer.eos_token_id, *more) if end is not None})


def _greedy(config: Any, ends: list[int], tokenizer: Any) -> GenerationConfig:
    """Return a generation config with only the special tokens of the model's own.

    `generate` fills what a call leaves open from the model's config: a repetition penalty there
    changes answers that are called greedy.
    """
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=ends or None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=config.bos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )
