"""Models of transformers behind their own processors: batches answer as one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.eval.test_generate import noise, spread
from vila_core.errors import UserError
from vila_core.eval.adapters.transformers_vlm import TransformersAnswerer, open_transformers
from vila_core.eval.answerer import Answer
from vila_core.eval.items import Case
from vila_core.eval.prompts import Prompt, chat_prompt

WORDS = (
    "red blue green what is it ? one two three left right yes no . dog cat house".split()  # noqa: SIM905
)
MARKS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
MARKS += [f"<row_{r}_col_{c}>" for r in range(1, 3) for c in range(1, 3)]
LLAVA = (
    "{% for m in messages %}{{ 'user : ' if m.role == 'user' else 'bot : ' }}"
    "{% for p in m.content if p.type == 'image' %}<image> {% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}bot :{% endif %}"
)
IDEFICS = (
    "<s>{% for m in messages %}{{ m.role }} :{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "<end_of_utterance>{% endfor %}{% if add_generation_prompt %}bot :{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<s>", "</s>", "<unk>", *MARKS, *WORDS, "user", "bot", ":"]
    ids = {word: n for n, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=MARKS,
    )


def text_config(words: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=words,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=160,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
    )


def llava() -> tuple[Any, Any]:
    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config(len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    side = {"height": 16, "width": 16}
    shape = {"size": {"shortest_edge": 16}, "crop_size": side}
    processor = LlavaProcessor(
        CLIPImageProcessor(**shape),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    return LlavaForConditionalGeneration(config), processor


def idefics() -> tuple[Any, Any]:
    words = tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    config = Idefics3Config(
        vision_config=vision,
        text_config=text_config(len(words)),
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessor(
            do_image_splitting=False,
            size={"longest_edge": 32},
            max_image_size={"longest_edge": 32},
        ),
        words,
        image_seq_len=4,
        chat_template=IDEFICS,
    )
    return Idefics3ForConditionalGeneration(config), processor


@pytest.fixture(scope="module", params=[llava, idefics])
def asked(request: pytest.FixtureRequest) -> TransformersAnswerer:
    model, processor = request.param()
    spread(model)
    model.generation_config.update(repetition_penalty=7.0, num_beams=3)
    return TransformersAnswerer(model.eval(), processor, identity={"name": "tiny"})


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return noise(tmp_path)


def prompts(answerer: TransformersAnswerer, images: list[Path]) -> list[Prompt]:
    made = []
    for n in range(10):
        text = " ".join(WORDS[(7 * n + 3 * k) % len(WORDS)] for k in range(2 + 5 * n % 9))
        shown = [images[(n + k) % 3] for k in range(n % 3)]
        parts = [part for image in shown for part in (image, " ")]
        demos = [Case((images[n % 3], " red ? "), "blue")] if n % 4 == 1 else []
        made.append(answerer.written(chat_prompt(Case((*parts, text), ""), demos, f"q:{n}")))
    return made


def ask(
    answerer: TransformersAnswerer, asked: list[Prompt], size: int = 16, **more: Any
) -> list[Answer]:
    answerer.batch_size = size
    way = {"max_new_tokens": 6, "stop": None, **more}
    found = dict(pair for batch in answerer.answers(asked, **way) for pair in batch)
    return [found[n] for n in range(len(asked))]


def test_a_batch_answers_as_one_by_one(asked: TransformersAnswerer, images: list[Path]) -> None:
    questions = prompts(asked, images)
    together = ask(asked, questions)
    assert together == ask(asked, questions, 1)
    assert len({answer.text for answer in together}) > 5
    blind = ask(asked, questions, blind=True)
    assert blind == ask(asked, questions, 1, blind=True)
    changed = {n for n in range(10) if blind[n] != together[n]}
    assert changed
    assert changed <= {n for n in range(10) if questions[n].images}


def test_greedy_by_hand(asked: TransformersAnswerer, images: list[Path]) -> None:
    """Without padding, without a cache, without `generate`."""
    for prompt, answer in zip(
        prompts(asked, images)[:4], ask(asked, prompts(asked, images))[:4], strict=True
    ):
        shown = [[Image.open(path).convert("RGB") for path in prompt.images]]
        inputs = asked.processor(
            text=[prompt.text],
            images=shown if shown[0] else None,
            return_tensors="pt",
            add_special_tokens=not prompt.text.startswith("<s>"),
        )
        said: list[int] = []
        image = asked.model.config.image_token_id  # said, it would need an image of its own
        with torch.inference_mode():
            while len(said) < 6 and not {2, image} & set(said):
                said.append(int(asked.model(**inputs).logits[0, -1].argmax()))
                for name, value in (("input_ids", said[-1]), ("attention_mask", 1)):
                    more = torch.tensor([[value]])
                    inputs[name] = torch.cat([inputs[name], more], dim=1)
        text = asked.processor.tokenizer.decode(said, skip_special_tokens=True)
        if image in said:
            assert answer.text.startswith(text)
        else:
            assert answer == Answer(text, finished=2 in said)


def test_the_stop_text_ends_an_answer(asked: TransformersAnswerer, images: list[Path]) -> None:
    questions = prompts(asked, images)
    free = ask(asked, questions)
    word = next(a.text.split()[2] for a in free if len(a.text.split()) > 4)
    for before, after in zip(free, ask(asked, questions, stop=word), strict=True):
        assert after.text == before.text.partition(word)[0].strip()
        assert after.finished or word not in before.text


def test_images_stay_where_they_are_meant(asked: TransformersAnswerer, images: list[Path]) -> None:
    case = Case(("red ", images[0], " blue ", images[1], "\ngreen"), "")
    text = asked.written(chat_prompt(case, [Case((images[2], "\nwhat ?"), "cat")])).text
    places = [text.index(word) for word in ("what ?", "cat", "red", "blue", "green")]
    assert places == sorted(places)
    between = [text[a:b].count("<image>") for a, b in zip([0, *places], places, strict=False)]
    assert between == [1, 0, 0, 1, 1]


def test_likelihoods_equal_those_of_whole_sequences(
    asked: TransformersAnswerer, images: list[Path]
) -> None:
    questions = prompts(asked, images)
    letters, long = [" red", " blue"], [" red dog", " blue", " cat . cat"]
    options = [letters if n % 2 else long for n in range(10)]
    rounds = []
    for size in (16, 1):
        asked.batch_size = size
        found = dict(p for b in asked.likelihoods(questions, options) for p in b)
        rounds.append([value for n in range(10) for value in found[n]])
    expected = [
        whole(asked, prompt, choice)
        for prompt, its in zip(questions, options, strict=True)
        for choice in its
    ]
    assert rounds[0] == pytest.approx(expected, abs=1e-4)
    assert rounds[1] == pytest.approx(expected, abs=1e-4)


def whole(answerer: TransformersAnswerer, prompt: Prompt, choice: str) -> float:
    shown = [[Image.open(path).convert("RGB") for path in prompt.images]]
    inputs = answerer.processor(
        text=[prompt.text + choice],
        images=shown if shown[0] else None,
        return_tensors="pt",
        add_special_tokens=not prompt.text.startswith("<s>"),
    )
    with torch.inference_mode():
        nats = answerer.model(**inputs).logits[0].log_softmax(-1)
    ids, count = inputs["input_ids"][0].tolist(), len(choice.split())
    return math.fsum(nats[t - 1, ids[t]].item() for t in range(len(ids) - count, len(ids)))


def test_a_plain_prompt_needs_no_template(asked: TransformersAnswerer, images: list[Path]) -> None:
    prompt = asked.written(Prompt("<image> red ? blue . <image> green ?", (images[0], images[1])))
    assert prompt.text.count(asked.processor.image_token) == 2
    assert len(ask(asked, [prompt])) == 1


def test_mistakes_are_named(
    asked: TransformersAnswerer, images: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="q:1: the prompt has 0 places for 1 images"):
        ask(asked, [Prompt("red", (images[0],), "q:1")])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png: .*; replace it or drop the items"):
        ask(asked, [asked.written(Prompt("<image>", (tmp_path / "broken.png",)))])
    with pytest.raises(UserError, match=r"q:2: .* is more than the model's 160 positions"):
        ask(asked, [Prompt("red " * 170, (), "q:2")])
    with pytest.raises(UserError, match="q:3: the choice '' has no tokens"):
        list(asked.likelihoods([Prompt("red", (), "q:3")], [[""]]))


def test_a_model_is_opened_from_its_folder(tmp_path: Path) -> None:
    model, processor = llava()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    opened = open_transformers(folder, device=torch.device("cpu"), dtype=torch.float32)
    assert opened.describe() == {
        "kind": "transformers",
        "class": "LlavaForConditionalGeneration",
        "template": "processor",
        "precision": "float32",
        "decoding": "greedy",
    }
    assert AutoModelForImageTextToText.from_pretrained(folder).config == opened.model.config
    with pytest.raises(UserError, match="nothing: can't be loaded as a vision-language model"):
        open_transformers(tmp_path / "nothing", device=torch.device("cpu"), dtype=torch.float32)
    processor.chat_template = None
    bare = TransformersAnswerer(model, processor)
    with pytest.raises(UserError, match="q:4: is a conversation, but the model's processor has no"):
        bare.written(chat_prompt(Case(("red",), ""), [], "q:4"))


@pytest.mark.parametrize("content", ["m.content", "m.content | trim", "m.content + ' '"])
def test_a_template_that_knows_texts_only_gets_texts(content: str, images: list[Path]) -> None:
    """Those of language models, which a processor takes over with the tokenizer."""
    model, processor = llava()
    processor.chat_template = (
        f"{{% for m in messages %}}{{{{ m.role }}}} : {{{{ {content} }}}} {{% endfor %}}bot :"
    )
    asked = TransformersAnswerer(model.eval(), processor)
    demo = Case((images[0], "\nred ?"), "blue")
    text = asked.written(chat_prompt(Case(("which ", images[1], " is red ?"), ""), [demo])).text
    assert " ".join(text.split()) == (
        "user : <image> red ? assistant : blue user : which <image> is red ? bot :"
    )
