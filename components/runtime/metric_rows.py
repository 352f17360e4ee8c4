"""Rows of `metrics.jsonl` as columns of numbers, read in pieces: memory stays flat.

A piece that is flat JSON goes through pyarrow, all else line by line. pyarrow is not trusted with
nested values: it ends the process when they are nested deeply enough.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE_BYTES = 4 * 2**20
MOST_COLUMNS = 512
"""Of a foreign file with more of them the others are left out."""
MOST_LINE_BYTES = 2**20

Numbers = npt.NDArray[np.float64]


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole lines, some MiB at a time. A line without an end is left for the next reading.

    A line longer than 1 MiB is no row of ours: what was read of it is dropped.
    """
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= PIECE_BYTES:
            joined = b"".join(held)
            end = joined.rfind(b"\n") + 1
            if end:
                yield joined[:end]
            held = [joined[end:]]
            size = len(held[0])
            if size > MOST_LINE_BYTES:
                held, size = [b"" if end else b"\n"], 0
    joined = b"".join(held)
    end = joined.rfind(b"\n") + 1
    if end:
        yield joined[:end]


def columns(piece: bytes, only: frozenset[str] | None = None) -> dict[str, Numbers]:
    """Return the numbers of whole lines by column, NaN where a row has none that is finite.

    All arrays are as long as there are rows; `only` names the columns that are needed.
    """
    names = _names(piece)
    flat = b"[" not in piece and piece.count(b"{") == piece.count(b"\n")
    found = _fast(piece, names if only is None else [n for n in names if n in only]) if flat else {}
    if not found:
        found = _slow(piece, only)
    for values in found.values():
        values[~np.isfinite(values)] = np.nan
    return found


def _names(piece: bytes) -> list[str]:
    """Return the columns with numbers of the first and the last row."""
    names: dict[str, None] = {}
    last = piece.rfind(b"\n", 0, -1) + 1
    for line in (piece[: piece.find(b"\n") + 1], piece[last:]):
        row = _row(line)
        names |= dict.fromkeys(name for name, value in row.items() if _is_number(value))
    return list(names)[:MOST_COLUMNS]


def _fast(piece: bytes, names: list[str]) -> dict[str, Numbers]:
    """Return the columns of flat rows; nothing where a row is not like the others."""
    import pyarrow as pa
    from pyarrow import json as pj

    if not names:
        return {}
    try:
        table = pj.read_json(
            pa.BufferReader(piece),
            memory_pool=pa.system_memory_pool(),  # gives back what is freed
            read_options=pj.ReadOptions(use_threads=False, block_size=len(piece) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema([(name, pa.float64()) for name in names]),
                unexpected_field_behavior="ignore",
            ),
        )
    except (pa.ArrowException, ValueError):
        return {}
    return {name: table[name].to_numpy(zero_copy_only=False).copy() for name in table.column_names}


def _slow(piece: bytes, only: frozenset[str] | None) -> dict[str, Numbers]:
    rows = [_row(line) for line in piece.splitlines(keepends=True) if len(line) < MOST_LINE_BYTES]
    found: dict[str, Numbers] = {}
    for index, row in enumerate(rows):
        for name, value in row.items():
            if (only is None or name in only) and _is_number(value):
                if name not in found:
                    if len(found) == MOST_COLUMNS:
                        continue
                    found[name] = np.full(len(rows), np.nan)
                found[name][index] = _float(value)
    return found


def _row(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _float(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:  # an integer beyond all floats
        return math.nan
