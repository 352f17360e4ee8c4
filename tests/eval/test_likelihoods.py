"""Likelihoods with a shared prefix equal those of whole sequences, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.eval.test_generate import (
    IDS,
    WORDS,
    byte_tokenizer,
    noise,
    plain_model,
    prompts,
    seeing_generator,
    spread,
)
from vila_core.data.asking import Layout
from vila_core.errors import UserError
from vila_core.eval.generate import Generator
from vila_core.eval.items import Case
from vila_core.eval.prompts import Prompt, Turn, chat_prompt
from vila_core.miniature.words import build_tokenizer


@pytest.fixture(scope="module")
def seeing() -> Generator:
    return seeing_generator()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return noise(tmp_path)


def expectations(
    generator: Generator, asked: list[Prompt], options: list[list[str]]
) -> list[float]:
    return [
        whole(generator, prompt, choice)
        for prompt, its in zip(asked, options, strict=True)
        for choice in its
    ]


def choices(count: int) -> list[list[str]]:
    """Per prompt one to four choices of one to four words."""
    return [
        [
            " " + " ".join(WORDS[(5 * n + 11 * c + k) % len(WORDS)] for k in range(1 + (n + c) % 4))
            for c in range(1 + n % 4)
        ]
        for n in range(count)
    ]


def ask(
    generator: Generator, asked: list[Prompt], options: list[list[str]], **more: Any
) -> list[list[float]]:
    found = dict(pair for batch in generator.likelihoods(asked, options, **more) for pair in batch)
    assert sorted(found) == list(range(len(asked)))
    return [found[n] for n in range(len(asked))]


def whole(generator: Generator, prompt: Prompt, choice: str) -> float:
    """One sequence at a time, without cache or padding."""
    head = generator.tokenizer(generator.expand(prompt.text))["input_ids"]
    ids = generator.tokenizer(generator.expand(prompt.text + choice))["input_ids"]
    extra = {}
    if prompt.images:
        assert generator.load_image is not None
        extra = {"pixel_values": torch.stack([generator.load_image(i) for i in prompt.images])}
    with torch.inference_mode():
        logits = generator.model(input_ids=torch.tensor([ids]), **extra).logits[0]
    nats = logits.log_softmax(-1)
    return math.fsum(nats[t - 1, ids[t]].item() for t in range(len(head), len(ids)))


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[dict[str, int]]:
    """Count what goes through a model: prompts' tokens, images, calls."""
    seen = {"tokens": 0, "images": 0, "calls": 0}

    def look(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        seen["calls"] += 1
        seen["tokens"] += given["input_ids"].numel()
        seen["images"] += len(given["pixel_values"]) if "pixel_values" in given else 0

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.mark.parametrize("size", [1, 7, 128])
def test_likelihoods_equal_those_of_whole_sequences(size: int) -> None:
    generator = Generator(plain_model(), build_tokenizer(), batch_size=size)
    asked, options = prompts(24), choices(24)
    expected = expectations(generator, asked, options)
    assert [len(row) for row in ask(generator, asked, options)] == [len(row) for row in options]
    assert flat(ask(generator, asked, options)) == pytest.approx(expected, abs=1e-4)


def test_padding_moves_no_position() -> None:
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 128}
    model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    spread(model)
    generator = Generator(model, build_tokenizer())
    asked, options = prompts(20), choices(20)
    expected = expectations(generator, asked, options)
    assert flat(ask(generator, asked, options)) == pytest.approx(expected, abs=1e-4)


def test_with_images_and_each_image_once(
    seeing: Generator,
    images: list[Path],
) -> None:
    asked, options = prompts(18, images), choices(18)
    expected = expectations(seeing, asked, options)
    with counted(seeing.model) as seen:
        found = ask(seeing, asked, options)
    assert flat(found) == pytest.approx(expected, abs=1e-4)
    assert seen["images"] == sum(len(prompt.images) for prompt in asked)
    blind = ask(seeing, asked, options, blind=True)
    looking = [n for n, prompt in enumerate(asked) if prompt.images]
    assert all(blind[n] != pytest.approx(found[n], abs=1e-4) for n in looking)


def test_letters_need_no_second_pass() -> None:
    generator = Generator(plain_model(), build_tokenizer())
    with counted(generator.model) as seen:
        ask(generator, prompts(9), [[" red", " blue", " green"]] * 9)
    assert seen["calls"] == 1
    longest = max(len(prompt.text.split()) for prompt in prompts(9))
    assert seen["tokens"] == 9 * longest


def test_scored_tells_what_greedy_decoding_says() -> None:
    generator = Generator(plain_model(), build_tokenizer())
    asked = prompts(6)
    said = dict(
        pair for batch in generator.answers(asked, max_new_tokens=3, stop=None) for pair in batch
    )
    options = [[f" {said[n].text}", " red blue red"] for n in range(6)]
    full = [n for n in range(6) if len(said[n].text.split()) == 3]  # no special token was said
    assert len(full) > 2
    found = dict(pair for batch in generator.scored(asked, options) for pair in batch)
    for n in full:
        mine, other = found[n]
        assert (mine.greedy, other.greedy) == (True, False)
        assert (mine.tokens, other.tokens) == (3, 3)
        assert mine.nats > other.nats


def test_a_batch_counts_every_choice() -> None:
    generator = Generator(plain_model(), build_tokenizer(), batch_tokens=60)
    asked = [Prompt("red blue green", ())] * 10
    sizes = [len(b) for b in generator.likelihoods(asked, [[" red blue", " red"]] * 10)]
    assert sizes == [6, 4]  # 6 prompts x 2 choices x (3 + 2) tokens


def test_a_token_across_the_border_counts_for_all_choices() -> None:
    """`n.` is one token: what is shared ends before it, for the other choice too."""
    tokenizer = merging_tokenizer()
    model = plain_model()
    generator = Generator(model, tokenizer)
    (found,) = ask(generator, [Prompt("man", ())], [[".", "e"]])
    ids = tokenizer.get_vocab()
    with torch.inference_mode():
        nats = model(input_ids=torch.tensor([[ids["m"], ids["a"], ids["n"]]])).logits.log_softmax(
            -1
        )
    assert found[0] == pytest.approx(nats[0, 1, ids["n."]].item(), abs=1e-4)
    both = nats[0, 1, ids["n"]].item() + nats[0, 2, ids["e"]].item()
    assert found[1] == pytest.approx(both, abs=1e-4)


def merging_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    letters = {letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz.")}
    inner = Tokenizer(models.BPE(letters | {"n.": 27}, merges=[("n", ".")]))
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_an_empty_prompt_starts_with_the_end_token() -> None:
    tokenizer = byte_tokenizer()
    generator = Generator(plain_model(), tokenizer)
    (found,) = ask(generator, [Prompt("", ())], [["red"]])
    ids = [tokenizer.eos_token_id, *tokenizer("red")["input_ids"]]
    with torch.inference_mode():
        nats = generator.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = math.fsum(nats[t - 1, ids[t]].item() for t in range(1, 4))
    assert found == [pytest.approx(expected, abs=1e-4)]


def test_what_cannot_be_scored_is_named() -> None:
    generator = Generator(plain_model(), build_tokenizer())
    with pytest.raises(UserError, match=r"a\.json:3: the choice '' has no tokens"):
        ask(generator, [Prompt("red", (), "a.json:3")], [[" blue", ""]])
    with pytest.raises(UserError, match="more than the model's 64 positions"):
        ask(generator, [Prompt("red " * 62, ())], [[" red blue green"]])
    assert ask(generator, [], []) == []
    assert ask(generator, [Prompt("red", ())], [[]]) == [[]]


def conversation(*shown: Path) -> Prompt:
    demo = Case(("red ? ",), "blue")
    return chat_prompt(Case((*shown, " green ?"), ""), [demo], "q:1")


def test_conversations_are_written_by_the_layout(
    seeing: Generator,
    images: list[Path],
) -> None:
    layout = Layout("miniature", seeing.tokenizer)
    seeing.layout = layout
    try:
        asked = [seeing.written(conversation(images[0])), *prompts(5, images)]
        assert asked[0].text == layout.lay_out([("red ? ", "blue"), ("<image> green ?", None)])
        assert asked[0].turns == (Turn("red ? ", "blue"), Turn("<image> green ?"))
        assert seeing.written(asked[1]) is asked[1]
        together = dict(
            pair for batch in seeing.answers(asked, max_new_tokens=9, stop=None) for pair in batch
        )
        assert layout.end == "."
        assert "." not in together[0].text
        assert any("." in together[n].text for n in range(1, 6))
    finally:
        seeing.layout = None
    with pytest.raises(UserError, match=r"q:1: is a conversation, but the model has no chat"):
        seeing.written(conversation())


class OwnTokens:
    """A layout that brings its special tokens itself."""

    adds_special_tokens = False
    end = "</s>"

    def lay_out(self, exchanges: Any) -> str:
        return "".join(f"<s>{user}{answer or ''}" for user, answer in exchanges)


def test_a_layout_may_bring_its_own_special_tokens() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", IDS["</s>"])]
    )
    generator = Generator(plain_model(), tokenizer, layout=OwnTokens())
    with counted(generator.model) as seen:
        plain = Prompt("red blue", ())
        list(generator.answers([plain], max_new_tokens=1, stop=None))
        assert seen["tokens"] == 3
        talk = generator.written(Prompt("", (), turns=(Turn("red blue"),)))
        list(generator.answers([talk], max_new_tokens=1, stop=None))
        assert seen["tokens"] == 3 + len(tokenizer("<s>red blue")["input_ids"]) - 1


def test_a_model_says_what_it_is() -> None:
    generator = Generator(plain_model(), build_tokenizer(), identity={"kind": "plain"})
    assert generator.describe() == {"kind": "plain", "precision": "float32", "decoding": "greedy"}
    assert not generator.sees
    with pytest.raises(UserError, match="shows an image, but the model can't see"):
        list(
            generator.answers(
                [Prompt("red <image>", (Path("a.png"),))], max_new_tokens=1, stop=None
            )
        )


def test_images_and_places_must_agree(seeing: Generator, images: list[Path]) -> None:
    asked = [Prompt("red <image> <image>", (images[0],), "f:9")]
    with pytest.raises(UserError, match="f:9: the prompt has 2 <image> places for 1 images"):
        list(seeing.answers(asked, max_new_tokens=1, stop=None))


def test_long_answers_go_on_without_the_finished_ones() -> None:
    generator = Generator(plain_model(), build_tokenizer(), batch_size=24)
    generator.model.generation_config.eos_token_id = [IDS[word] for word in WORDS[:6]]
    asked = prompts(24)

    def answers() -> list[Any]:
        found = [p for b in generator.answers(asked, max_new_tokens=30, stop=None) for p in b]
        return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]

    with counted(generator.model) as seen:
        together = answers()
    assert len({len(answer.text.split()) for answer in together}) > 4
    longest = max(len(prompt.text.split()) for prompt in asked)
    assert seen["tokens"] < 24 * (longest + seen["calls"] - 1)
    generator.batch_size = 1
    assert answers() == together
