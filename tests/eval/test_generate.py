"""Answers in padded batches with a cache equal those one by one, and transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from vila_core.eval.generate import Generator
from vila_core.eval.prompts import Prompt
from vila_core.miniature.words import build_tokenizer, words
from vila_core.model import VilaProcessor, build_preset, load_preset

WORDS = [word for word in words() if not word.startswith("<")]


def spread(model: torch.nn.Module) -> None:
    """Give the weights enough variance that greedy answers differ between prompts."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)


def prompts(count: int, image: Path | None = None) -> list[Prompt]:
    made = []
    for n in range(count):
        text = " ".join(WORDS[(7 * n + 3 * k) % len(WORDS)] for k in range(2 + 5 * n % 23))
        images = (image,) * (n % 3) if image else ()
        made.append(Prompt(" ".join(["<image>"] * len(images) + [text]), images))
    return made


@pytest.fixture(scope="module")
def plain() -> Generator:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=128, num_attention_heads=4)).eval()
    spread(model)
    return Generator(model, build_tokenizer(), batch_size=8)


@pytest.fixture(scope="module")
def seeing() -> Generator:
    model = build_preset(load_preset("miniature")).eval()
    spread(model)
    half = (0.5, 0.5, 0.5)
    processor = VilaProcessor(
        build_tokenizer(), image_size=32, tokens_per_image=4, mean=half, std=half
    )
    return Generator(
        model,
        processor.tokenizer,
        processor.expand,
        lambda path: processor.image_transform(Image.open(path)),
        batch_size=8,
    )


def all_answers(
    generator: Generator, batch_size: int, asked: list[Prompt], **more: bool
) -> list[str]:
    generator.batch_size = batch_size
    found = dict(generator.answers(asked, max_new_tokens=6, stop=".", **more))
    return [found[n] for n in range(len(asked))]


def test_a_batch_answers_as_one_by_one(plain: Generator) -> None:
    asked = prompts(20)
    together = all_answers(plain, 20, asked)
    assert together == all_answers(plain, 1, asked)
    assert len(set(together)) > 10


def test_a_batch_with_images_answers_as_one_by_one(seeing: Generator, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.effect_noise((32, 32), 90).convert("RGB").save(image)
    asked = prompts(12, image)
    seen = all_answers(seeing, 12, asked)
    assert seen == all_answers(seeing, 1, asked)
    blind = all_answers(seeing, 12, asked, blind=True)
    assert [s == b for s, b, p in zip(seen, blind, asked, strict=True) if not p.images] == [
        True
    ] * 4
    assert seen != blind


def test_answers_equal_transformers_generate(plain: Generator) -> None:
    for prompt in prompts(6):
        ids = torch.tensor([plain.tokenizer(prompt.text)["input_ids"]])
        out = plain.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=plain._end_ids(".").tolist(),
        )
        text = plain.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert all_answers(plain, 1, [prompt]) == [text.partition(".")[0].strip()]


def test_an_answer_ends_at_the_limit(plain: Generator) -> None:
    ((_, answer),) = plain.answers(prompts(1), max_new_tokens=2, stop=".")
    assert len(answer.split()) <= 2
