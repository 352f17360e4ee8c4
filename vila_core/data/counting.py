"""Count the samples of a prepared corpus again, with another tokenizer or another template.

Only the texts are read, and no shard is written: the counts become a file beside the index.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vila_core.data import pool
from vila_core.data.chat import TemplateRefuses
from vila_core.data.corpus import Corpus
from vila_core.data.encode import Encoder
from vila_core.data.token_counts import VERSION, Counted, TokenCounts
from vila_core.data.tokenizer import load_tokenizer
from vila_core.errors import Damaged, UserError
from vila_core.jsonio import dumps

_CHUNK = 256
"""Samples that are counted at a time: a tenth of a second."""


@dataclass(frozen=True)
class CountWork:
    """What is counted, and by what."""

    folder: Path
    tokenizer: Path
    template: str

    def worker(self) -> CountWorker:
        """Return what counts, with a tokenizer of its own."""
        return CountWorker(self)


@dataclass(frozen=True)
class Rows:
    """The samples from `start` to `stop`."""

    corpus: str
    start: int
    stop: int

    @property
    def span(self) -> str:
        """From where to where it goes, for messages."""
        return f"{self.start} to {self.stop - 1} of '{self.corpus}'"


class CountWorker:
    """Counts samples. Raises UserError for a template that the tokenizer can't serve."""

    def __init__(self, work: CountWork) -> None:
        self._corpus = Corpus.open(work.folder)
        # Text tokens are counted without image places, so neither number matters here.
        tokenizer = load_tokenizer(work.tokenizer)
        self.encoder = Encoder(tokenizer, work.template, image_token_id=0, tokens_per_image=1)

    def __call__(self, rows: Rows) -> np.ndarray:
        """Return text tokens and supervised ones of each sample, (stop - start, 2) int32."""
        return np.array([self._count(number) for number in range(rows.start, rows.stop)], np.int32)

    def _count(self, number: int) -> tuple[int, int]:
        sample = self._corpus.read_text(number)
        try:
            counts = self.encoder.count(sample)
        except TemplateRefuses as error:
            raise UserError(
                f"{error}\n  fix: another --template; or prepare the corpus with this one, which "
                "sets such samples aside."
            ) from None
        if counts.images != int(self._corpus.index.num_images[number]):
            raise Damaged(f"{sample.key}: {counts.images} images in its text, other in the index.")
        return counts.text_tokens, counts.supervised


@dataclass(frozen=True)
class Recount:
    """What came of counting a corpus again."""

    path: Path
    samples: int
    text_tokens: int
    supervised: int
    unsupervised: int  # samples of which no token carries loss


def count_again(
    work: CountWork, *, workers: int, told: Callable[[int, int], None] = lambda done, of: None
) -> Recount | None:
    """Write a corpus's counts beside its index; None where the index holds just these.

    Equal input gives equal bytes, whatever `workers`. `told` hears how many samples are done, and
    of how many. Raises UserError for a tokenizer or template that can't be used, Damaged for a
    corpus that was changed.
    """
    corpus, worker = Corpus.open(work.folder), work.worker()
    counted = Counted.by(worker.encoder)
    if counted == Counted.of(corpus.manifest):
        return None
    rows: list[np.ndarray] = []
    for some in pool.do(_chunks(corpus), worker, work, workers):
        rows.append(some)
        told(min(len(rows) * _CHUNK, len(corpus)), len(corpus))
    table = np.concatenate(rows or [np.zeros((0, 2), np.int32)])
    buffer = io.BytesIO()
    TokenCounts(table[:, 0].copy(), table[:, 1].copy()).write(buffer)
    path = work.folder / counted.arrays
    text, supervised = (int(total) for total in table.sum(axis=0, dtype=np.int64))
    facts = {
        "version": VERSION,
        "tokenizer_digest": counted.tokenizer,
        "template": counted.template,
        "chat_template_sha256": counted.chat_template,
        "index_sha256": corpus.manifest["index_sha256"],
        "samples": len(corpus),
        "text_tokens": text,
        "supervised": supervised,
        "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    # The JSON comes last: counts without it are not looked at.
    (work.folder / counted.facts).unlink(missing_ok=True)
    _write(path, buffer.getvalue())
    _write(work.folder / counted.facts, f"{dumps(facts, indent=2)}\n".encode())
    return Recount(path, len(corpus), text, supervised, int((table[:, 1] == 0).sum()))


def _chunks(corpus: Corpus) -> Iterator[Rows]:
    for start in range(0, len(corpus), _CHUNK):
        yield Rows(corpus.name, start, min(start + _CHUNK, len(corpus)))


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f"{path.name}.new")
    aside.write_bytes(data)
    aside.rename(path)
