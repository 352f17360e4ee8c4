"""Records of an evaluation read: the scores by benchmark, and single records back again."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO, Any, Self, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from vila_core.errors import Damaged, NotFound, UserError
from vila_core.eval.answers import Answers, Key, Questions, Scores, narrowed
from vila_core.eval.records import SEEN
from vila_core.store import Store, read_pieces, ref_of

RECORDS = "records.jsonl"
_MOST = 1e300  # of a score: sums of greater ones are no numbers

T = TypeVar("T")

_decode = json.JSONDecoder().raw_decode
_questions: WeakValueDictionary[bytes, Questions] = WeakValueDictionary()
_prompts: WeakValueDictionary[bytes, NDArray[np.uint64]] = WeakValueDictionary()
"""What evaluations share, while one of them is held."""


def answers_of(store: Store, sha256: str) -> dict[Key, Answers]:
    """Return the answers in a results artifact, verified.

    Raises NotFound, Damaged, and UserError naming the line that is no record.
    """
    ref = ref_of(store, sha256)
    return read_answers(read_pieces(store, ref, RECORDS), f"{ref.uri}/{RECORDS}")


def read_answers(pieces: Iterable[bytes], where: str) -> dict[Key, Answers]:
    """Return the answers in the pieces of a `records.jsonl`, by benchmark and shots.

    No more of the file than a piece is held. Raises UserError naming `where` and the line that is
    no record.
    """
    found: dict[Key, _Rows] = {}
    pieces = iter(pieces)
    begin = number = 0
    try:
        for line in _lines(pieces):
            number += 1
            if line:
                row = _object(line)
                key = row["task"], operator.index(row["shots"])
                rows = found.get(key) if row["condition"] == SEEN else _Rows()  # must be one too
                if rows is None:
                    rows = found[_text(key[0]), key[1]] = _Rows()
                rows.add(row, begin, line)
            begin += len(line) + 1
    except (ValueError, KeyError, TypeError, RecursionError):
        for _ in pieces:  # to the end: that the file is damaged is told before what comes of it
            pass
        raise UserError(f"{where}:{number}: is not a record of an evaluation") from None
    return {key: found.pop(key).answers(*key) for key in [*found]}


class Records:
    """Single records of evaluations, whose files stay open until the end of `with`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, IO[bytes]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def at(self, sha256: str, answers: Answers, place: int) -> dict[str, Any]:
        """Return the record of a question's first draw, checked against what was read before.

        Of a directory that line alone is read; of a bucket all records come once to a temporary
        file. Raises NotFound, Damaged.
        """
        file = self._file(sha256)
        file.seek(int(answers.places[place]))
        line = file.readline().rstrip(b"\n")
        if hash(line) != int(answers.lines[place]):
            raise Damaged(f"{ref_of(self._store, sha256).uri}/{RECORDS}: is not what it was.")
        return json.loads(line)

    def _file(self, sha256: str) -> IO[bytes]:
        if sha256 not in self._files:
            ref = ref_of(self._store, sha256)
            path = self._store.local_path(f"artifacts/{sha256}/{RECORDS}")
            try:
                file = path.open("rb") if path else TemporaryFile()  # noqa: SIM115  # below
            except FileNotFoundError:
                raise NotFound(f"{ref.uri}/{RECORDS}: is gone.") from None
            self._open.callback(file.close)
            if path is None:
                file.writelines(read_pieces(self._store, ref, RECORDS))
            self._files[sha256] = file
        return self._files[sha256]


class _Rows:
    """The records of one benchmark: columns by record, and some by question."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}  # by question
        self.units: list[str] = []
        self.places = array("Q")
        self.lines = array("q")
        self.asked = array("I")  # by record
        self.scores = array("d")
        self.prompts = bytearray()
        self.draws = array("I")
        self.drawn: dict[tuple[int, int], int] = {}
        self.versions: set[str] = set()

    def add(self, row: Mapping[str, Any], begin: int, line: bytes) -> None:
        """Take a record whose line begins at `begin`. Raises ValueError, KeyError, TypeError."""
        key, score = row["key"], row["score"]
        place = self.index.get(key)
        if place is None:
            self.units.append(_text(row.get("unit") or key))
            place = self.index[_text(key)] = len(self.index)
            self.places.append(begin)
            self.lines.append(hash(line))
        if score is None:
            score = math.nan
        elif not -_MOST < score < _MOST:  # NaN is not, and text raises TypeError
            raise ValueError
        drawn = row.get("seed", 0), row.get("order", 0)
        draw = self.drawn.get(drawn)
        if draw is None:
            drawn = operator.index(drawn[0]), operator.index(drawn[1])
            draw = self.drawn[drawn] = len(self.drawn)
        prompt = row.get("prompt_digest") or ""
        self.prompts += _digest(str.encode(prompt, "utf-8", "surrogatepass"))
        self.asked.append(place)
        self.scores.append(score)
        self.draws.append(draw)
        version = row.get("version") or ""
        if version not in self.versions:
            self.versions.add(str(version))

    def answers(self, benchmark: str, shots: int) -> Answers:
        """Return the arrays."""
        scores, prompts = np.array(self.scores), _numbers(self.prompts)
        scored = not np.isnan(scores).any()
        by_round = self._by_round(scores)
        if len(scores) > len(self.index):
            scores, prompts = self._over_draws(scores, prompts)
        means = Scores.of(scores)
        rounds = {each: Scores.of(values) for each, values in by_round.items()}
        if len(rounds) == 1:
            rounds = dict.fromkeys(rounds, means)  # the mean of one
        places, lines = narrowed(np.array(self.places)), np.array(self.lines)
        asked = Questions.of([*self.index], self.units)
        content = asked.text, asked.ends.tobytes(), asked.units.tobytes()
        mine = asked.bytes, prompts.nbytes
        asked, asked_is_new = _shared(_questions, asked, *content)
        prompts, prompts_are_new = _shared(_prompts, prompts, prompts.tobytes())
        held = {id(one): one.bytes for one in (means, *rounds.values())}
        return Answers(
            benchmark=benchmark,
            shots=shots,
            asked=asked,
            means=means,
            prompts=prompts,
            places=places,
            lines=lines,
            versions=frozenset(self.versions),
            scored=scored,
            rounds=rounds,
            bytes=1000
            + places.nbytes
            + lines.nbytes
            + sum(held.values())
            + mine[0] * asked_is_new
            + mine[1] * prompts_are_new,
        )

    def _by_round(self, scores: NDArray[np.float64]) -> dict[tuple[int, int], NDArray[np.float64]]:
        """Return scores by draw; nothing where one lacks a question, has it twice or not scored."""
        if len(scores) != len(self.drawn) * len(self.index):
            return {}
        table = np.full((len(self.drawn), len(self.index)), math.nan)
        table[np.array(self.draws), np.array(self.asked)] = scores
        return {} if np.isnan(table).any() else dict(zip(self.drawn, table, strict=True))

    def _over_draws(
        self, scores: NDArray[np.float64], prompts: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
        """Return by question the mean score, and what tells its prompts from others."""
        asked = np.array(self.asked)
        ends = np.cumsum(np.bincount(asked))
        parts = np.split(np.argsort(asked, kind="stable"), ends[:-1])
        means = np.array([_mean(scores[part].tolist()) for part in parts])
        return means, _numbers(b"".join(_digest(prompts[part].tobytes()) for part in parts))


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    for piece in pieces:
        first, *more = piece.split(b"\n")
        rest.append(first)
        if more:
            yield b"".join(rest)
            rest = [more.pop()]
            yield from more
    yield b"".join(rest)


def _object(line: bytes) -> dict[str, Any]:
    text = line.decode().strip(" \t\r")
    row, end = _decode(text)  # `json.loads` would look for spaces at both ends
    if end != len(text) or not isinstance(row, dict):
        raise ValueError
    return row


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _mean(scores: list[float]) -> float:
    known = [score for score in scores if not math.isnan(score)]
    return math.fsum(known) / len(known) if known else math.nan


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()


def _numbers(digests: bytes | bytearray) -> NDArray[np.uint64]:
    return np.frombuffer(bytes(digests), dtype=np.uint64)


def _shared(held: WeakValueDictionary[bytes, T], value: T, *content: bytes) -> tuple[T, bool]:
    """Return the value of the same content that is held already, and whether there was none."""
    found = hashlib.sha256()
    for part in content:
        found.update(len(part).to_bytes(8) + part)
    one = held.setdefault(found.digest(), value)
    return one, one is value
