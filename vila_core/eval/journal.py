"""Answers kept as they come, so that an interrupted evaluation asks only what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vila_core.eval.answerer import Answer, Answerer
from vila_core.eval.kept_lines import KeptLines
from vila_core.eval.prompts import Prompt
from vila_core.jsonio import digest, dumps

Value = TypeVar("Value")
Batches = Iterator[list[tuple[int, Value]]]


class Journal:
    """A file with a line per answer, written and flushed with every batch.

    An answer is known by what decides it: the prompt's digest, the way of asking, and `model`, what
    identifies the model (its digest, `Answerer.describe`). So a journal never gives an answer to
    another question, and may serve several models. A line that a killed process left half-written
    is cut off; one that is damaged is skipped, and asked again. One process writes at a time.

    Use it as a context manager. Raises UserError for a file that can't be read or written.
    """

    def __init__(self, path: Path, model: Mapping[str, Any]) -> None:
        self._model = dict(model)
        self._known: dict[str, Any] = {}
        self._file = KeptLines(path, self._learn, "answers")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        """Return the number of different questions that are answered."""
        return len(self._known)

    def answers(
        self,
        answerer: Answerer,
        prompts: Sequence[Prompt],
        digests: Sequence[str],
        *,
        max_new_tokens: int,
        stop: str | None,
        blind: bool,
    ) -> Batches[Answer]:
        """Yield as `answerer.answers` does: first what is known, in one batch, then the rest.

        `digests` are those of the prompts. Equal prompts are asked once.
        """
        way = {"max_new_tokens": max_new_tokens, "stop": stop, "blind": blind}
        keys = [self._key(one, {"ask": "answer", **way}) for one in digests]

        def ask(places: Sequence[int]) -> Batches[Answer]:
            return answerer.answers([prompts[n] for n in places], **way)

        return self._all(keys, ask, lambda a: [a.text, a.finished], lambda v: Answer(*v))

    def likelihoods(
        self,
        answerer: Answerer,
        prompts: Sequence[Prompt],
        choices: Sequence[Sequence[str]],
        digests: Sequence[str],
        *,
        blind: bool,
    ) -> Batches[list[float]]:
        """Yield as `answerer.likelihoods` does: first what is known, then the rest."""
        keys = [
            self._key(one, {"ask": "likelihood", "blind": blind, "choices": list(its)})
            for one, its in zip(digests, choices, strict=True)
        ]

        def ask(places: Sequence[int]) -> Batches[list[float]]:
            some = [prompts[n] for n in places], [choices[n] for n in places]
            return answerer.likelihoods(*some, blind=blind)

        return self._all(keys, ask, list, list)

    def _all(
        self,
        keys: Sequence[str],
        ask: Callable[[Sequence[int]], Batches[Value]],
        pack: Callable[[Value], Any],
        unpack: Callable[[Any], Value],
    ) -> Batches[Value]:
        known = [(n, unpack(self._known[key])) for n, key in enumerate(keys) if key in self._known]
        if known:
            yield known
        places: dict[str, list[int]] = {}
        for n, key in enumerate(keys):
            if key not in self._known:
                places.setdefault(key, []).append(n)
        missing = list(places)
        if not missing:
            return
        for batch in ask([places[key][0] for key in missing]):
            self._keep((missing[n], pack(value)) for n, value in batch)
            yield [(place, value) for n, value in batch for place in places[missing[n]]]

    def _key(self, prompt_digest: str, way: Mapping[str, Any]) -> str:
        return digest([self._model, prompt_digest, way])

    def _keep(self, found: Iterable[tuple[str, Any]]) -> None:
        pairs = list(found)
        self._file.add("".join(f"{dumps(pair)}\n" for pair in pairs))
        self._known.update(pairs)

    def _learn(self, line: bytes) -> None:
        try:
            key, value = json.loads(line)
            sound = isinstance(key, str) and isinstance(value, list)
        except (ValueError, TypeError, RecursionError):
            return
        if sound:
            self._known[key] = value
