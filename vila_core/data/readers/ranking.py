"""The best rows of a corpus by the scores in its parquet files, before any record is read.

Only the columns of the scores are read, a batch at a time, as often as it takes to find the exact
score of the last row to take: never all scores at once, so that COYO's 747 million rows fit. A row
whose score is missing or not a number is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vila_core.data.readers.files import CorpusFile, RecordFile
from vila_core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_BATCH = 2**20
_BITS = 20
HELD = 2**23
"""This many scores may be held at once: 64 MiB of them."""


def best_rows(
    files: Sequence[RecordFile],
    columns: Sequence[str],
    count: int | None,
    *,
    above: float | None = None,
) -> dict[str, np.ndarray]:
    """Return which `count` rows of the whole corpus have the greatest scores: numbers by shard.

    A score is the sum of `columns` in float64, as in VILA's script. Among equal scores the first in
    the order of files and rows are taken. With `above`, only greater scores count. All that count
    are taken when `count` is None or there are no more. Raises UserError for a file or column that
    can't be used.
    """
    tables = _tables(files, columns)
    total = sum(rows for _, _, rows in tables)

    def keys() -> Iterator[np.ndarray]:
        for _, path, _ in tables:
            for scores in _scores(path, columns):
                yield _keys(scores, above)

    cut, equal = (0, 0) if count is None else cut_of(keys, count, held=total)
    result: dict[str, np.ndarray] = {}
    for shard, path, _ in tables:
        result[shard], equal = _above(_scores(path, columns), cut, equal, above)
    return result


def best_share(
    files: Sequence[RecordFile], columns: Sequence[str], share: float, *, above: float | None = None
) -> dict[str, np.ndarray]:
    """Return the best rows of each file for itself: `share` of its rows, rounded down.

    VILA's released script does this with 0.2 and `above` 0.6. Otherwise like `best_rows`.
    """
    result: dict[str, np.ndarray] = {}
    for file, (_, _, rows) in zip(files, _tables(files, columns), strict=True):
        result |= best_rows([file], columns, int(rows * share), above=above)
    return result


def cut_of(
    keys: Callable[[], Iterator[np.ndarray]], count: int, *, held: int, most: int | None = None
) -> tuple[int, int]:
    """Return the `count`-th greatest key and how many keys equal to it belong to the best `count`.

    `keys()` yields them (uint64) from the start each time; `held` is at least how many there are.
    Each pass counts them by their next 20 bits, until at most `most` are in question and can be
    held. The answer is (0, all) when there are no more than `count` keys.
    """
    import numpy as np

    if count <= 0:
        return 2**64 - 1, 0
    most = HELD if most is None else most
    prefix, shift, greater = 0, 64, 0

    def inside() -> Iterator[np.ndarray]:
        for batch in keys():
            yield batch if shift == 64 else batch[batch >> np.uint64(shift) == np.uint64(prefix)]

    while shift and held > most:
        bits = min(_BITS, shift)
        counts = np.zeros(2**bits, dtype=np.int64)
        for batch in inside():
            digits = batch >> np.uint64(shift - bits) & np.uint64(2**bits - 1)
            counts += np.bincount(digits.astype(np.int64), minlength=2**bits)
        at_least = greater + counts[::-1].cumsum()  # keys with this digit or a greater one
        place = int(np.searchsorted(at_least, count))
        if place == len(at_least):
            return 0, count  # not so many keys: all of them
        digit = len(counts) - 1 - place
        held = int(counts[digit])
        greater = int(at_least[place]) - held
        prefix, shift = prefix << bits | digit, shift - bits
    if shift == 0:
        return prefix, count - greater
    left = np.concatenate([np.empty(0, dtype=np.uint64), *inside()])
    wanted = count - greater
    if len(left) < wanted:
        return 0, count
    cut = int(np.partition(left, len(left) - wanted)[len(left) - wanted])
    return cut, wanted - int((left > np.uint64(cut)).sum())


def _above(
    batches: Iterator[np.ndarray], cut: int, equal: int, above: float | None
) -> tuple[np.ndarray, int]:
    """Return the rows over `cut` and the first `equal` at it, and how many of these are left."""
    import numpy as np

    taken, start = [np.empty(0, dtype=np.int32)], 0
    for scores in batches:
        rows = _counted(scores, above)
        keys = _keys(scores[rows], None)
        take = keys > np.uint64(cut)
        ties = np.flatnonzero(keys == np.uint64(cut))[:equal]
        take[ties] = True
        equal -= len(ties)
        numbers = rows[take] + start
        # Half the memory for COYO's 25 million; a file of 2**31 rows isn't known, but would work.
        taken.append(numbers if start + len(scores) >= 2**31 else numbers.astype(np.int32))
        start += len(scores)
    return np.concatenate(taken), equal


def _counted(scores: np.ndarray, above: float | None) -> np.ndarray:
    import numpy as np

    return np.flatnonzero(~np.isnan(scores) if above is None else scores > above)


def _keys(scores: np.ndarray, above: float | None) -> np.ndarray:
    """Return integers in the order of the scores; those that don't count are left out.

    The bits of a float ascend like an integer's once the sign bit is flipped, and all of them for a
    negative one. Adding 0.0 makes one zero of the two.
    """
    import numpy as np

    bits = (scores[_counted(scores, above)] + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def _scores(path: Path, columns: Sequence[str]) -> Iterator[np.ndarray]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_BATCH, columns=list(columns)):
                scores = np.zeros(len(batch))
                for name in columns:
                    with np.errstate(invalid="ignore"):  # inf - inf is no number, hence not taken
                        scores += batch.column(name).to_numpy(zero_copy_only=False)
                yield scores
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: is not a readable parquet file: {_short(error)}") from None


def _tables(files: Sequence[RecordFile], columns: Sequence[str]) -> list[tuple[str, Path, int]]:
    """Return shard, path and rows of each file, from the footers. Raises UserError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    result: list[tuple[str, Path, int]] = []
    for file in files:
        if not isinstance(file, CorpusFile) or file.path.suffix != ".parquet":
            name = getattr(file, "path", file.shard)
            raise UserError(
                f"{name}: ranking by score reads columns of parquet files, and this is none; unset "
                "options.top, options.top_share and options.score_above"
            )
        try:
            with pq.ParquetFile(file.path) as table:
                schema, rows = table.schema_arrow, table.metadata.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{file.path}: is not a readable parquet file: {_short(error)}"
            ) from None
        for name in columns:
            _check_column(file.path, name, schema)
        result.append((file.shard, file.path, rows))
    return result


def _check_column(path: Path, name: str, schema: pa.Schema) -> None:
    import pyarrow as pa

    numeric = [
        field.name
        for field in schema
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]
    if name in numeric:
        return
    problem = "is not a column of numbers" if name in schema.names else "there is no such column"
    raise UserError(
        f"{path}: '{name}': {problem}; set options.score to columns of numbers that every file "
        f"has, here {', '.join(numeric) or 'none'}, or unset options.top, options.top_share and "
        "options.score_above"
    )


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0]
