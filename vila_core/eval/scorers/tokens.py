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
_DROPPED = frozenset(["''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-"]) | frozenset(
    [".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


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


_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_WORD = re.compile(r"n't|'(?:s|m|d|re|ve|ll)(?!\w)|\w+(?:[-.,/:]\w+)*|[^\w\s]")


def _words(text: str) -> list[str]:
    text = _CONTRACTION.sub(r" \1", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return [word for word in _kept(_WORD.findall(text)) if re.search(r"\w", word)]
