"""Small images, samples, tokenizers and corpora for the tests of the data path."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from transformers import PreTrainedTokenizerFast

from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.sample import Image, Sample, Text, make_sample
from vila_core.data.shards import ShardLimits, ShardWriter
from vila_core.images import decode
from vila_core.miniature.words import build_tokenizer

IMAGE_ID = 128


def picture(
    color: Any = (200, 30, 30),
    size: tuple[int, int] = (16, 16),
    form: str = "PNG",
    mode: str = "RGB",
    **options: Any,
) -> bytes:
    file = io.BytesIO()
    PilImage.new(mode, size, color).save(file, form, **options)
    return file.getvalue()


def noise(seed: int = 0, size: int = 64, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    PilImage.fromarray(pixels).save(file, form)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
    )


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Llama's way: blanks are part of words, BOS is added by the tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    corpus = ["USER: what is red? ASSISTANT: a red circle. two of them, I think"] * 8
    trainer = trainers.BpeTrainer(
        vocab_size=160,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=[*map(chr, range(32, 127)), "▁"],
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """GPT's way: a token may hold part of a character; no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["USER: what is red ASSISTANT: a red circle"] * 8, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")


def encoder(template: str = "miniature", tokens_per_image: int = 4) -> Encoder:
    return Encoder(build_tokenizer(), template, IMAGE_ID, tokens_per_image)


def pixels(data: bytes) -> torch.Tensor:
    """An image transform: (3, 8, 8)."""
    array = np.array(decode(data).resize((8, 8)), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1) / 255


def captions(name: str, count: int) -> list[Sample]:
    words = ("red circle", "blue square", "top left green cross", "white triangle bottom right red")
    return [
        make_sample(
            f"{name}/00000/{n:06d}",
            "caption",
            [Image(0), Text(f"{words[n % 4]} .")],
            [picture((n % 256, 3, 7), (16, 16))],
            {"id": n},
        )
        for n in range(count)
    ]


def texts(name: str, count: int) -> list[Sample]:
    return [
        make_sample(
            f"{name}/00000/{n:06d}",
            "text-only",
            [Text(f"q {n % 9} plus {n % 7}", "user"), Text("3 " * (1 + n % 5), "assistant")],
            [],
        )
        for n in range(count)
    ]


def documents(name: str, count: int) -> list[Sample]:
    made = []
    for n in range(count):
        shown = 1 + n % 4
        parts = [part for k in range(shown) for part in (Image(k), Text("-> red ; "))]
        images = [picture((n % 256, k, 9), (16, 16)) for k in range(shown)]
        made.append(make_sample(f"{name}/00000/{n:06d}", "interleaved", parts, images))
    return made


def write_corpus(
    folder: Path,
    name: str,
    samples: Iterable[Sample],
    *,
    template: str = "miniature",
    shard_samples: int = 10_000,
) -> Corpus:
    counter = encoder(template)
    limits = ShardLimits(samples=shard_samples)
    with ShardWriter(folder / name, name, template=template, limits=limits) as writer:
        for sample in samples:
            writer.add(sample, counter.count(sample))
        writer.finish()
    return Corpus.open(folder / name)


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines; a text is written as it is, so that a line can be broken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_images(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


CHATML_JINJA = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3_JINJA = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHAT_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
_CHAT_TEXT = [
    "USER: what is red? ASSISTANT: a red circle. two of them, I think",
    "system\nuser\nassistant\nwhat is that?\n\na blue square",
] * 8


def byte_level_chat(chat_template: str | None = CHATML_JINJA) -> PreTrainedTokenizerFast:
    """Llama-3's and Qwen's way: bytes, no BOS of its own, markers as special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin|>", "</s>", *CHAT_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_CHAT_TEXT, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|begin|>", eos_token="</s>")
    made.chat_template = chat_template
    return made


def metaspace_chat(chat_template: str | None = CHATML_JINJA) -> PreTrainedTokenizerFast:
    """Llama-2's way: blanks belong to words, unknown characters fall back to bytes, BOS is added.

    None of the chat markers is a token: a template's markers are text here.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))],
        initial_alphabet=[*map(chr, range(32, 127)), "▁"],
        show_progress=False,
    )
    inner.train_from_iterator([text.replace("\n", " ") for text in _CHAT_TEXT], trainer)
    # The bytes are part of the vocabulary, not special: text can't be mistaken for them.
    state = json.loads(inner.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    inner = Tokenizer.from_str(json.dumps(state))
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = chat_template
    return made
