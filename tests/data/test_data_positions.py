"""FLAN's records at exact positions, over files of several kinds."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_core.data.readers import READERS
from vila_core.data.readers.files import Record, corpus_files
from vila_core.data.readers.flan import FlanOptions
from vila_core.data.readers.positions import count_records, spread
from vila_core.data.sample import Sample
from vila_core.errors import UserError


@dataclass(frozen=True)
class Counted:
    """A file of which only the number of records matters."""

    shard: str
    count: int

    def records(self):
        return (Record(number, "", None) for number in range(self.count))


@given(st.lists(st.integers(0, 40), max_size=5), st.integers(1, 120))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_positions_are_i_times_n_over_k_over_all_files(counts: list[int], wanted: int) -> None:
    files = [Counted(f"f{number}", count) for number, count in enumerate(counts)]
    total = sum(counts)
    selection = spread(files, wanted)
    if wanted >= total:
        assert selection is None  # all of them, none twice
        return
    assert selection is not None
    start, taken = 0, []
    for file in files:
        rows = selection[file.shard]
        assert all(0 <= row < file.count for row in rows)
        taken += [start + int(row) for row in rows]
        start += file.count
    assert taken == [number * total // wanted for number in range(wanted)]


@dataclass(frozen=True)
class Large:
    """Stands for a parquet file by its footer alone."""

    shard: str
    count: int


def test_positions_are_exact_where_float32_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLAN's size: VILA's script can only name every 32nd row there, in float32."""
    total, wanted = 378_000_001, 1_000_003
    monkeypatch.setattr(
        "vila_core.data.readers.positions.count_records", lambda file: (file.count, [])
    )
    selection = spread([Large("a", 300_000_000), Large("b", total - 300_000_000)], wanted)  # type: ignore[list-item]
    assert selection is not None
    rows = np.concatenate([selection["a"], selection["b"] + 300_000_000])
    assert len(np.unique(rows)) == wanted
    for place in (0, 1, 777_777, wanted - 1):
        assert rows[place] == place * total // wanted
    assert np.spacing(np.float32(total)) == 32


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"inputs": f"q{n}", "targets": f"a{n}"} for n in range(start, start + count)]


def test_files_of_all_kinds_count_as_one_corpus(tmp_path: Path) -> None:
    """Blank lines are no records: positions count what the reader would read."""
    pq.write_table(pa.Table.from_pylist(rows(4)), tmp_path / "a.parquet")
    lines = [json.dumps(row) for row in rows(3, 4)]
    text = f"\n{lines[0]}\n \n\n{lines[1]}\n{lines[2]}"
    (tmp_path / "b.jsonl").write_text(text)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "d.json").write_text(json.dumps(rows(2, 10)))
    files = corpus_files(tmp_path)
    assert [count_records(file)[0] for file in files] == [4, 3, 3, 2]
    order = [*range(7), 4, 5, 6, 10, 11]
    for wanted in range(1, 13):
        read = READERS["flan"].read(tmp_path, corpus="flan", options=FlanOptions(sample=wanted))
        texts = [row.parts[0].text for row in read if isinstance(row, Sample)]  # type: ignore[union-attr]
        assert texts == [f"q{order[number * 12 // wanted]}" for number in range(wanted)], wanted


def test_a_broken_line_has_a_position_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{broken\n{"text": "c"}\n{"text": "d"}\n')
    reader = READERS["flan"]
    taken = list(reader.read(path, corpus="flan", options=FlanOptions(sample=3)))
    assert [getattr(row, "where", getattr(row, "key", "")) for row in taken] == [
        "flan/a/000000",
        "a.jsonl:2",
        "flan/a/000002",
    ]


def test_a_file_that_can_not_be_counted(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a\.parquet: is not a readable parquet file"):
        spread(corpus_files(tmp_path), 3)
