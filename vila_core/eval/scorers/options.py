"""Multiple choice: which option an answer names, as the official scorers of each benchmark read it.

Options are lettered A, B, C … in the order in which they are given.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase

_SCIENCEQA = frozenset("ABCDE")
_THE_ANSWER_IS = re.compile(r"The answer is ([A-E])\.")
_THE_ANSWER_BEGINS = re.compile(r"The answer is ([A-E])")

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_REFUSED = "Z"
_LATE = 4  # words at the end where MMBench looks for a letter
_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))

_ENDS = ",.!?;:'"
_LONG = 5  # words; only a longer answer to MMMU is searched for the text of an option
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,000
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1e3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def letters(count: int) -> str:
    """Return the letters of that many options. Raises ValueError for more than the alphabet."""
    if not 0 < count <= len(LETTERS):
        raise ValueError(f"{count} options can't be lettered")
    return LETTERS[:count]


def strict_letter(text: str, letters: Sequence[str]) -> str | None:
    """Return the answer if it is one of the letters and nothing else (SEED-Bench, as LLaVA does).

    "A." names no option.
    """
    return text if text in set(letters) else None


def scienceqa_letter(text: str, letters: Sequence[str]) -> str | None:
    """Return the option of an answer to ScienceQA, by LLaVA's eval_science_qa.py.

    A letter alone; or a letter, a period and a blank at the start (a line end counts as ". "); or
    the first "The answer is X." (else "The answer is X") of the text. None otherwise, or for a
    letter that isn't one of the question's.
    """
    text = text.replace("\n", ". ")
    named: str | None = None
    if text.strip() in _SCIENCEQA:
        named = text.strip()
    elif text[:1] in _SCIENCEQA and text[1:3] == ". ":
        named = text[0]
    elif found := _THE_ANSWER_IS.search(text) or _THE_ANSWER_BEGINS.search(text):
        named = found.group(1)
    return named if named in set(letters) else None


def infer_option(text: str, choices: Sequence[str]) -> str | None:
    """Return the option of an answer to MMBench, by VLMEvalKit's rules that need no judge.

    The one letter among the answer's words, if it is first met in the last four; "Z" for a refusal,
    or where Z is a word and no letter is; else the one option whose text stands in the answer, in
    any case, unless the answer is more than twice as long as all options; else None. For these the
    official evaluation asks a judge model, and without one draws at random.
    """
    if "Failed to obtain answer via API" in text:
        return _contained(text, choices)
    if any(refusal in text for refusal in _REFUSALS):
        return _REFUSED
    words = text.translate(_MARKS).split()
    named = [letter for letter in letters(len(choices)) if letter in words]
    if len(named) == 1 and named[0] not in words[:-_LATE]:
        return named[0]
    if not named and _REFUSED in words:
        return _REFUSED
    return _contained(text, choices)


def _contained(text: str, choices: Sequence[str]) -> str | None:
    if len(text) > 2 * sum(map(len, choices)):
        return None
    text = text.lower()
    found = [n for n, choice in enumerate(choices) if choice.lower() in text]
    return LETTERS[found[0]] if len(found) == 1 else None


def circular(groups: Sequence[str], correct: Sequence[bool]) -> dict[str, bool]:
    """Return, for each group, whether all of its questions are right (MMBench's CircularEval).

    `groups` names the group of each question: the same question with its options rotated. Raises
    ValueError for lists of different length.
    """
    whole: dict[str, bool] = {}
    for group, right in zip(groups, correct, strict=True):
        whole[group] = whole.get(group, True) and right
    return whole


def mmmu_answer(text: str, choices: Sequence[str], draw: random.Random | None = None) -> str | None:
    """Return the letter that an answer names, or None.

    "(A)" before " A " before, in an answer of more than five words, the text of an option; of
    several, the one that stands last. Where nothing is found the official code draws a letter:
    pass `draw` (officially Random(42), shared by all questions in their order) to do so too.
    """
    for mark in _ENDS:
        text = text.strip(mark)
    text = f" {text} "
    options = dict(zip(letters(len(choices)), choices, strict=True))
    for form in ("({})", " {} "):
        at = {letter: text.rfind(form.format(letter)) for letter in options}
        if last := _last(at):
            return last
    if len(text.split()) > _LONG:
        lower = text.lower()
        if last := _last({letter: lower.rfind(each.lower()) for letter, each in options.items()}):
            return last
    return draw.choice(list(options)) if draw else None


def mmmu_open_match(text: str, references: Sequence[str]) -> bool:
    """Tell whether an open answer is right.

    Numbers (to two decimals) must be equal; a reference that is text must stand in one of the
    answer's key parts: what follows "is", "answer" and the like.
    """
    wanted = [value for reference in references for value in _values(reference)]
    for part in mmmu_open_answer(text):
        if isinstance(part, str):
            if any(isinstance(value, str) and value in part for value in wanted):
                return True
        elif part in wanted:
            return True
    return False


def mmmu_open_answer(text: str) -> list[str | float]:
    """Return what is compared of an open answer: its key parts, and the numbers in them."""
    parts = _key_parts(text)
    numbers = [number for part in parts for form in _NUMBERS for number in form.findall(part)]
    values = [value for each in [*parts, *numbers] for value in _values(each)]
    return list(dict.fromkeys(values))


def _last(at: dict[str, int]) -> str | None:
    found = {letter: place for letter, place in at.items() if place >= 0}
    return max(found, key=lambda letter: found[letter]) if found else None


def _key_parts(text: str) -> list[str]:
    text = text.strip().strip(".").lower()
    # The official code also means to cut at ". " before a capital, but looks for it in lower case.
    lines = text.split("\n")
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        shortest = ""
        for key in (*_KEYS, "=") if number == len(lines) else _KEYS:
            if key in line:
                tail = line.split(key)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            parts.append(shortest)
    return parts or [text]


def _values(text: str) -> list[str | float]:
    """Return a text as it is compared: a number to two decimals, or lower case.

    A single character is wanted with a blank beside it, so that it isn't found in every word.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
