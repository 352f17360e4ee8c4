"""Answers in padded batches with a cache equal those one by one, and transformers' own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from vila_core.errors import UserError
from vila_core.eval.generate import Answer, Generator
from vila_core.eval.prompts import Prompt
from vila_core.miniature.words import build_tokenizer, words
from vila_core.model import VilaProcessor, build_preset, load_preset

WORDS = [word for word in words() if not word.startswith("<")]
IDS = {word: n for n, word in enumerate(words())}


def spread(model: torch.nn.Module) -> None:
    """Give the weights enough variance that greedy answers differ between prompts."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)


def prompts(count: int, images: list[Path] | None = None) -> list[Prompt]:
    made = []
    for n in range(count):
        text = " ".join(WORDS[(7 * n + 3 * k) % len(WORDS)] for k in range(2 + 5 * n % 23))
        shown = tuple(images[(n + k) % len(images)] for k in range(n % 3)) if images else ()
        made.append(Prompt(" ".join(["<image>"] * len(shown) + [text]), shown))
    return made


def plain_model() -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    positions = {"max_position_embeddings": 64}
    model = LlamaForCausalLM(
        LlamaConfig(**shape, **positions, vocab_size=128, num_attention_heads=4)
    )
    spread(model)
    return model.eval()


@pytest.fixture(scope="module")
def plain() -> Generator:
    return Generator(plain_model(), build_tokenizer())


def seeing_generator() -> Generator:
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
    )


@pytest.fixture(scope="module")
def seeing() -> Generator:
    return seeing_generator()


def noise(folder: Path) -> list[Path]:
    paths = [folder / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        Image.effect_noise((32, 32), 40 + 60 * n).convert("RGB").save(path)
    return paths


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return noise(tmp_path)


def ask(
    generator: Generator, asked: list[Prompt], size: int = 128, tokens: int = 32_768, **more: Any
) -> list[Answer]:
    generator.batch_size, generator.batch_tokens = size, tokens
    settings = {"max_new_tokens": 6, "stop": ".", **more}
    found = dict(pair for batch in generator.answers(asked, **settings) for pair in batch)
    assert len(found) == len(asked)
    return [found[n] for n in range(len(asked))]


def test_a_batch_answers_as_one_by_one(plain: Generator) -> None:
    asked = prompts(40)
    together = ask(plain, asked)
    assert together == ask(plain, asked, size=1) == ask(plain, asked, size=7)
    assert len({answer.text for answer in together}) > 20
    assert {answer.finished for answer in together} == {True, False}


def test_padding_moves_no_position() -> None:
    """Learnt absolute positions, unlike rotary ones, show where a prompt is said to start."""
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 128}
    model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    spread(model)
    generator, asked = Generator(model, build_tokenizer()), prompts(20)
    assert ask(generator, asked) == ask(generator, asked, size=1)


def test_a_batch_with_images_answers_as_one_by_one(seeing: Generator, images: list[Path]) -> None:
    asked = prompts(24, images)
    seen = ask(seeing, asked)
    assert seen == ask(seeing, asked, size=1)
    blind = ask(seeing, asked, blind=True)
    assert blind == ask(seeing, asked, size=1, blind=True)
    looking = [n for n, prompt in enumerate(asked) if prompt.images]
    assert sum(seen[n] != blind[n] for n in looking) > len(looking) // 2
    assert all(seen[n] == blind[n] for n in range(24) if n not in looking)


def test_blind_answers_do_not_depend_on_the_images(seeing: Generator, images: list[Path]) -> None:
    one = [Prompt("scene <image> . q color a", (image,)) for image in images]
    assert len({answer.text for answer in ask(seeing, one, blind=True)}) == 1
    assert len({answer.text for answer in ask(seeing, one)}) > 1


def test_batches_hold_the_shortest_first_and_keep_to_their_budget(plain: Generator) -> None:
    asked = prompts(40)
    lengths = [len(prompt.text.split()) for prompt in asked]
    plain.batch_size, plain.batch_tokens = 8, 100
    batches = [[n for n, _ in batch] for batch in plain.answers(asked, max_new_tokens=6, stop=".")]
    in_order = [lengths[n] for batch in batches for n in batch]
    assert in_order == sorted(lengths)
    assert max(map(len, batches)) == 8
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (6 + max(lengths[n] for n in batch)) <= 100
    assert len(ask(plain, asked, tokens=1)) == 40  # each is a batch of its own


def test_answers_equal_transformers_generate(plain: Generator) -> None:
    asked = prompts(25)
    ends = [IDS["."], IDS["</s>"]]
    expected = []
    for prompt in asked:
        ids = torch.tensor([plain.tokenizer(prompt.text)["input_ids"]])
        out = plain.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=ends,
        )[0, ids.shape[1] :]
        text = plain.tokenizer.decode(out, skip_special_tokens=True)
        expected.append(Answer(text.partition(".")[0].strip(), out[-1].item() in ends))
    assert ask(plain, asked) == expected


def test_greedy_means_greedy_whatever_the_model_brings_along() -> None:
    generator, asked = Generator(plain_model(), build_tokenizer()), prompts(9)
    before = ask(generator, asked)
    generator.model.generation_config.update(repetition_penalty=9.0, do_sample=True, top_k=5)
    assert ask(generator, asked) == before


def test_the_model_may_name_more_end_tokens() -> None:
    generator, asked = Generator(plain_model(), build_tokenizer()), prompts(25)
    answers = [answer.text.split() for answer in ask(generator, asked, stop="no stop")]
    ((word, _),) = Counter(w for said in answers for w in said[1:-1]).most_common(1)
    generator.model.generation_config.eos_token_id = [IDS["</s>"], IDS[word]]
    for long, short in zip(answers, ask(generator, asked, stop="no stop"), strict=True):
        cut = long.index(word) + 1 if word in long else len(long)
        assert short.text.split() == long[:cut]
        assert short.finished or word not in long


def test_answers_with_images_equal_transformers_generate(
    seeing: Generator, images: list[Path]
) -> None:
    asked = prompts(9, images)
    for prompt, answer in zip(asked, ask(seeing, asked), strict=True):
        ids = torch.tensor([seeing.tokenizer(seeing.expand(prompt.text))["input_ids"]])
        assert seeing.load_image is not None
        pixels = [seeing.load_image(image) for image in prompt.images]
        out = seeing.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.stack(pixels) if pixels else None,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=[IDS["."], IDS["</s>"]],
        )
        text = seeing.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == text.partition(".")[0].strip()


class Scripted(torch.nn.Module):
    """Says the same tokens to every prompt, whatever it is: a model that never learnt to answer."""

    def __init__(self, said: list[int], vocabulary: int = 128) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.said, self.vocabulary, self.steps = said, vocabulary, 0
        positions = SimpleNamespace(max_position_embeddings=64)
        self.config = SimpleNamespace(get_text_config=lambda: positions)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutputWithPast:
        logits = torch.zeros(len(input_ids), 1, self.vocabulary)
        logits[:, -1, self.said[self.steps % len(self.said)]] = 1.0
        self.steps += 1
        return CausalLMOutputWithPast(logits=logits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "answer", "steps"),
    [
        (["red", ".", "blue"], Answer("red", finished=True), 2),
        (["."], Answer("", finished=True), 1),
        (["</s>"], Answer("", finished=True), 1),
        (["red"], Answer("red red red red", finished=False), 4),
        (["<pad>"], Answer("", finished=False), 4),
    ],
)
def test_nothing_and_for_ever_are_answers_too(said: list[str], answer: Answer, steps: int) -> None:
    model = Scripted([IDS[word] for word in said])
    generator = Generator(model, build_tokenizer())
    assert ask(generator, prompts(3), max_new_tokens=4) == [answer] * 3
    assert model.steps == steps


def test_not_a_number_is_no_crash() -> None:
    broken = plain_model()
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    answers = ask(Generator(broken, build_tokenizer()), prompts(3))
    assert answers == [Answer("", finished=False)] * 3


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose pieces are characters: a longer stop text is several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = {chr(n): n - 32 for n in range(32, 127)} | {"\n": 95, "\x07": 96, "<eos>": 97}
    letters |= {"n.": 98}
    inner = Tokenizer(models.WordLevel(letters, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


@pytest.mark.parametrize(
    ("said", "stop", "text", "steps"),
    [
        ("red\n\nQ", "\n\n", "red", 5),  # the stop text is two tokens
        ("re n.Q", ".", "re n", 4),  # it stands inside a longer token
        ("\x07\x07.", ".", "\x07\x07", 3),  # control characters are kept, and seen as such
    ],
)
def test_stop_text_is_found_in_the_text_not_in_the_tokens(
    said: str, stop: str, text: str, steps: int
) -> None:
    tokenizer = byte_tokenizer()
    ids = [98 if piece == "n." else tokenizer.get_vocab()[piece] for piece in _pieces(said)]
    model = Scripted(ids)
    answer = ask(Generator(model, tokenizer), [Prompt("ask", ())], max_new_tokens=8, stop=stop)
    assert answer == [Answer(text, finished=True)]
    assert model.steps == steps


@pytest.mark.parametrize(
    ("stop", "text", "steps"),
    [
        ("e", "rd", 4),  # its letter in the name of a special token is not in the answer
        ("<red>", "r", 2),
    ],
)
def test_names_of_special_tokens_are_no_text(stop: str, text: str, steps: int) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<red>"]})
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in ("r", "<red>", "d", "e", "Q")]
    model = Scripted(ids)
    answer = ask(Generator(model, tokenizer), [Prompt("ask", ())], max_new_tokens=8, stop=stop)
    assert answer == [Answer(text, finished=True)]
    assert model.steps == steps


def _pieces(text: str) -> list[str]:
    return [*text.partition("n.")[0], "n.", *text.partition("n.")[2]] if "n." in text else [*text]


def test_prompts_that_cannot_be_asked_are_named(plain: Generator) -> None:
    long = Prompt("red " * 62, (), "items.jsonl:7")
    message = r"items\.jsonl:7: the prompt has 62 tokens.*the model's 64 positions"
    with pytest.raises(UserError, match=message):
        ask(plain, [long], max_new_tokens=3)
    assert len(ask(plain, [long], max_new_tokens=2)) == 1
    with pytest.raises(UserError, match=r"'  ': the prompt has no tokens"):
        ask(plain, [Prompt("  ", ())])
    assert ask(plain, []) == []
