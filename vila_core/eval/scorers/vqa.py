"""Answers to visual questions against those of ten people: the two official soft accuracies.

Both scorers process texts in the same odd ways, which are kept: they decide the printed digits.
Sources: github.com/GT-Vision-Lab/VQA (vqaEval.py), and the M4C evaluator of Pythia and MMF
(m4c_evaluators.py), which LLaVA uses for TextVQA.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ENOUGH = 3  # people who agree make an answer fully right

_UP_TO_TEN = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(n) for n, word in enumerate(_UP_TO_TEN.split())}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# The official table maps each of these words, written with one of its apostrophes left out, to the
# word. Entries of the table with capitals are missing here: texts are in lower case by then.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # the wrong way round in the official table
    for word in _CONTRACTIONS.split():
        for at in (match.start() for match in re.finditer("'", word)):
            table[word[:at] + word[at + 1 :]] = word
    return table


_CONTRACTED = _contractions()
# Meant as "a period between no digits"; as published it is "a period that no digit follows".
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # `re.UNICODE` stands where the official code should have no count
_COMMA_IN_NUMBER = re.compile(r"\d,\d")


def normalise(text: str) -> str:
    """Return an answer as the TextVQA scorer compares it (EvalAIAnswerProcessor).

    Lower case; commas and question marks go; "'s" is a word of its own; punctuation, number words,
    articles and contractions as in `vqa_normalise`.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_normalise(text)


def vqa_normalise(text: str) -> str:
    """Return an answer as the VQA scorer compares it, where the people's answers differ.

    A punctuation mark becomes a blank, or goes without one if it touches a blank anywhere in the
    text (or if a comma stands between digits, whatever the mark). At most 32 periods go. Number
    words up to ten become digits ("none" becomes 0), articles go, contractions get their
    apostrophe.
    """
    return _words(_punctuation(_one_line(text)))


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the soft accuracy of VQAv2, VizWiz and OK-VQA (0 to 1), as the official VQA eval does.

    Each of the (ten) references is left out once: the answer then scores a third per remaining
    reference that it equals, at most 1; the mean of these counts. Texts are only normalised where
    the references differ among themselves: if all agree, the answer must be the same to the letter.
    """
    answer = _one_line(answer)
    given = [_one_line(reference) for reference in references]
    if len(set(given)) > 1:
        return _leave_one_out(vqa_normalise(answer), [vqa_normalise(each) for each in given])
    return _leave_one_out(answer, given)


def m4c_accuracy(answer: str, references: Sequence[str]) -> float:
    """Return the soft accuracy of TextVQA (0 to 1), as M4C's evaluator does: always normalised."""
    return _leave_one_out(normalise(answer), [normalise(reference) for reference in references])


def _leave_one_out(answer: str, references: Sequence[str]) -> float:
    """Return the mean, over the references, of min(1, matches among the others / 3)."""
    if not references:
        raise ValueError("an answer can't be scored without references")
    same = sum(answer == reference for reference in references)
    others = [same - (answer == reference) for reference in references]
    return sum(min(1.0, matches / _ENOUGH) for matches in others) / len(others)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str) -> str:
    whole = text
    comma = _COMMA_IN_NUMBER.search(whole) is not None
    for mark in _PUNCTUATION:
        touches = mark + " " in whole or " " + mark in whole
        text = text.replace(mark, "" if touches or comma else " ")
    return _PERIOD.sub("", text, count=_MOST_PERIODS)


def _words(text: str) -> str:
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTED.get(word, word) for word in words if word not in _ARTICLES)
