"""The vocabulary of the miniature world: 128 words, and one added token for an image's place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def _tuple(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VOCABULARY_SIZE = 128
"""Rows of the language model's embedding. `<image>` stands beyond them, with id 128."""

PAD, UNKNOWN, END, IMAGE = "<pad>", "<unk>", "</s>", "<image>"
COLORS = _tuple("red green blue yellow purple white")
SHAPES = _tuple("circle square triangle cross")
CELLS = _tuple("top-left top-right bottom-left bottom-right")
NUMBERS = tuple(str(number) for number in range(19))
LETTERS = _tuple("b c d e f g h j")
NAMES = _tuple(
    "dax wug zup fep blick toma kiki bouba gorp lorp mib nid pel quam rill sarn tulver vint"
)
"""Words without a meaning of their own: labels that are bound anew in each document."""
ANIMALS = _tuple(
    "ant bat bear bee bird cat cow crab deer dog duck fish fox frog goat hare horse lion mole "
    "mouse owl pig seal wolf"
)
PLACES = _tuple("river forest desert cave meadow ocean hill farm")
_MARKS = _tuple(". , ; ->")
_FRAME = _tuple(
    "scene q a color shape object objects digit of how many is there where what yes no plus "
    "minus sort reverse home"
)


def words() -> tuple[str, ...]:
    """Return the 128 words in the order of their ids, filled up with reserved ones."""
    known = (PAD, UNKNOWN, END, *_MARKS, *_FRAME, *COLORS, *SHAPES, *CELLS, *NUMBERS, *LETTERS)
    known += (*NAMES, *ANIMALS, *PLACES)
    if len(set(known)) != len(known) or len(known) > VOCABULARY_SIZE:
        raise AssertionError(f"{len(known)} words, {len(set(known))} distinct")
    return known + tuple(f"<reserved-{n}>" for n in range(VOCABULARY_SIZE - len(known)))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: words are what stands between blanks.

    `<image>` needs no blanks around it (MMC4 glues it to the sentence that follows). Its id, 128,
    is beyond the language model's vocabulary: it has no embedding.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AddedToken, PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({word: n for n, word in enumerate(words())}, unk_token=UNKNOWN))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(IMAGE, special=True)], special_tokens=True)
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files into `folder`, which is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(folder)
