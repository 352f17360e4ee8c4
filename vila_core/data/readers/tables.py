"""Records from parquet files, and the check that they have the columns of their format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.data.readers.records import Broken, Record
from vila_core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

BROKEN_ROW = "broken row"
_BATCH_ROWS = 1024
_BATCH_BYTES = 16 * 2**20


def table_rows(path: Path, name: str) -> Iterator[Record]:
    """Yield a record per row, a dictionary by column. Raises UserError for an unreadable file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=_batch_rows(table)):
                for value in _values(batch):
                    where = f"{name} row {number}"
                    if isinstance(value, Broken):
                        yield Record(number, where, None, value)
                    else:
                        yield Record(number, where, value)
                    number += 1
            if number != table.metadata.num_rows:
                raise ValueError(f"it says {table.metadata.num_rows} rows, and holds {number}")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: is not a readable parquet file: {_short(error)}") from None


def check_columns(paths: Iterable[Path], wanted: Sequence[frozenset[str]]) -> None:
    """Raise UserError for the first parquet file that has none of the sets `wanted` of columns.

    It reads the ends of the files alone, so that hours of reading don't start in vain.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        try:
            columns = set(pq.read_schema(path).names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path}: is not a readable parquet file: {_short(error)}") from None
        if any(names <= columns for names in wanted):
            continue
        closest = min(wanted, key=lambda names: (len(names - columns), sorted(names)))
        missing = ", ".join(f"'{name}'" for name in sorted(closest - columns))
        raise UserError(
            f"{path}: lacks the column {missing}; it has {', '.join(sorted(columns)) or 'none'}.\n"
            "  fix: take the format that fits, or name the columns in the format's options"
        )


def _batch_rows(table: Any) -> int:
    """Return how many rows to hold at once: rows with images in them are large."""
    facts = table.metadata
    size = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
    row = max(size // max(facts.num_rows, 1), 1)
    return max(min(_BATCH_BYTES // row, _BATCH_ROWS), 1)


def _values(batch: pa.RecordBatch) -> Iterator[Any]:
    """Yield the rows of a batch; a row with a value that Python can't hold is a Broken."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError, ImportError):  # text that isn't UTF-8, nanoseconds, …
        pass
    for number in range(batch.num_rows):
        try:
            yield batch.slice(number, 1).to_pylist()[0]
        except (ValueError, OverflowError, ImportError) as error:
            yield Broken(BROKEN_ROW, _short(error))


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
