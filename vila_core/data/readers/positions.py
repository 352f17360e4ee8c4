"""Records at evenly spaced positions of a corpus, in exact integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vila_core.data.readers.files import CorpusFile, RecordFile
from vila_core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 2**20


def spread(files: Sequence[RecordFile], count: int) -> dict[str, np.ndarray] | None:
    """Return the records at positions `i * N // count` of the corpus's N, by shard.

    Positions go through all files in their order. None when there are no more than `count` records:
    all are taken, none twice. (VILA's script spaces its positions in float32, which holds no row
    beyond 16,777,216 exactly: at FLAN's 378 million it can only name every 32nd.)
    """
    import numpy as np

    counts = [count_records(file) for file in files]
    total = sum(records for records, _ in counts)
    if total <= count:
        return None
    result: dict[str, np.ndarray] = {}
    start = 0
    for file, (records, blank) in zip(files, counts, strict=True):
        end = start + records
        # The first i at or after a position p is ceil(p * count / N).
        steps = np.arange(-(-start * count // total), -(-end * count // total), dtype=np.int64)
        # Split so that nothing outgrows 64 bits: i * N // K = i * (N // K) + i * (N % K) // K.
        rows = steps * (total // count) + steps * (total % count) // count - start
        result[file.shard] = _skip(rows, blank)
        start = end
    return result


def _skip(rows: np.ndarray, blank: Sequence[int]) -> np.ndarray:
    """Return the line numbers of records, counted without the blank lines among them."""
    import numpy as np

    if not blank:
        return rows
    # Before record r stand as many blank lines as have at most r records before them.
    before = np.array(blank, dtype=np.int64) - np.arange(len(blank))
    return rows + np.searchsorted(before, rows, side="right")


def count_records(file: RecordFile) -> tuple[int, list[int]]:
    """Return how many records a file has, and the numbers that stand for none (blank lines).

    Cheap for parquet (its footer) and JSON lines (no line is parsed); other files are read.
    """
    if isinstance(file, CorpusFile) and file.path.suffix == ".parquet":
        return _footer(file), []
    if isinstance(file, CorpusFile) and file.path.suffix == ".jsonl":
        return _lines(file)
    numbers, blank, expected = 0, [], 0
    for record in file.records():
        blank.extend(range(expected, record.number))
        expected = record.number + 1
        numbers += 1
    return numbers, blank


def _footer(file: CorpusFile) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file.path).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file.path}: is not a readable parquet file: {error}") from None


def _lines(file: CorpusFile) -> tuple[int, list[int]]:
    blank: list[int] = []
    lines = 0
    try:
        with file.path.open("rb", buffering=_CHUNK) as opened:
            for number, line in enumerate(opened):
                lines = number + 1
                if line.isspace():
                    blank.append(number)
    except OSError as error:
        raise UserError(f"{file.path}: can't be read: {error.strerror or error}") from None
    return lines - len(blank), blank
