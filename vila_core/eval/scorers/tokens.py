"""Tokens of captions: Stanford's PTBTokenizer where it can run, else the same rules in Python.

The COCO caption evaluation runs `PTBTokenizer -preserveLines -lowerCase` of Stanford CoreNLP 3.4.1
(Java, packaged in pycocoevalcap) and drops the tokens that are punctuation.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vila_core.errors import UserError

TokeniserName = Literal["auto", "ptb", "python"]
"""`ptb` needs Java and pycocoevalcap; `auto` takes it where both are there, else `python`."""

PTB = "PTBTokenizer (Stanford CoreNLP 3.4.1)"
PYTHON = "vila-ptb 1 (PTB rules in Python)"

_JAR = "stanford-corenlp-3.4.1.jar"
# The official list has the names of brackets in capitals, which no token has after -lowerCase: so
# brackets stay.
_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def tokenise(texts: Sequence[str], tokeniser: TokeniserName) -> tuple[list[list[str]], str]:
    """Return the words of each text in lower case, without punctuation, and the tokeniser's name.

    Raises UserError where `ptb` is asked for and can't run.
    """
    jar = None if tokeniser == "python" else _jar()
    if jar is None and tokeniser == "ptb":
        raise UserError(
            "tokeniser: ptb needs Java and the package pycocoevalcap; install both (pip install "
            "'vila-platform[captions]'), or use tokeniser: python"
        )
    if jar is None:
        return [_words(text) for text in texts], PYTHON
    return _ptb(texts, jar), PTB


def _jar() -> Path | None:
    if shutil.which("java") is None:
        return None
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / "tokenizer" / _JAR
    return path if path.is_file() else None


def _ptb(texts: Sequence[str], jar: Path) -> list[list[str]]:
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    done = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    words = [_kept(line.split(" ")) for line in done.stdout.decode().split("\n")]
    if done.returncode or len(words) != len(texts) + 1:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"the PTB tokenizer failed (exit code {done.returncode}): {' '.join(last)}; mend Java, "
            "or use tokeniser: python"
        )
    return words[:-1]


def _kept(words: Sequence[str]) -> list[str]:
    return [word for word in words if word and word not in _DROPPED]


# What PTBTokenizer does to captions, in the order in which it is tried. Cased where PTB is: months.
_RULES = (
    r"https?://\S+",
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    r"(?<!\w)[#@](?=[^\W\d_])\w+",
    r"<[A-Za-z/][^<>\s]*>",
    r"\b(?i:can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|lem(?=me\b)|gim(?=me\b))",
    r"(?i:(?<!\w)'t(?=is\b|was\b)|\by'(?=all\b)|(?<!\w)'n'|\bol'|\bo'clock\b)",
    r"[^\W_]+?(?=(?i:n't)(?!\w))",
    r"(?i:n't|'(?:s|m|d|re|ve|ll))(?!\w)",
    r"(?<!\w)'\d0s\b",
    r"(?i:(?<!\w)[odl]'[^\W_]+)",
    r"(?<!\w)(?:[^\W\d_]\.)+(?!\w)",
    r"\b(?i:mrs?|ms|dr|st|jr|sr|inc|co|corp|ltd|vs|etc|ph\.d|ave|blvd|prof|capt|sgt)\.(?!\w)",
    r"\b(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.(?!\w)",
    r"\b(?i:no\.)(?=\s*\d)",
    r"(?<![\w-])[-+](?=\d)\d+(?:[.,]\d+)*(?![\w-])",
    r"\d+(?:[,:]\d+)+(?:\.\d+)?",
    r"(?i:c\+\+)",
    r"[^\W_][\u0300-\u036f]*(?:[^\W_\u00bc-\u00be]|[\u0300-\u036f]|[-_./](?=[^\W_]))*",
    r"[!?]{2,}|\.{2,}",
    r"\S",
)
_TOKEN = re.compile("|".join(_RULES))
_ESCAPED: dict[str, str] = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_ESCAPED |= {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4"}
_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_SILENT = re.compile(r"\.{2,}|[\"\u2013\u2014\u2026]")


def _words(text: str) -> list[str]:
    """Return the tokens of PTB's rules as far as captions need them.

    Not here: the long list of abbreviations, telephone numbers, and what else no caption holds.
    """
    found = _TOKEN.findall(text.translate(_STRAIGHT))
    words = [word for word in map(str, found) if not _SILENT.fullmatch(word)]
    return _kept([_ESCAPED.get(word, word.lower()) for word in words])
