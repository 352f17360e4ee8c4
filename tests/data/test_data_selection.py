from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.make import write_lines
from vila_core.data.readers import READERS, selected, take_all
from vila_core.data.readers.common import Options
from vila_core.data.readers.files import corpus_files


@pytest.fixture
def files(tmp_path: Path):
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / name, [{"text": f"{name} {number}"} for number in range(5)])
    return corpus_files(tmp_path)


def test_without_a_selection_all_records_are_taken(files) -> None:
    assert take_all(files, Options()) is None
    assert [record.number for record in selected(files[0], None)] == [0, 1, 2, 3, 4]


def test_a_selection_takes_its_records_and_no_others(files) -> None:
    selection = {"a": np.array([0, 3]), "b": np.array([4])}
    taken = [[record.where for record in selected(file, selection)] for file in files]
    assert taken == [["a.jsonl:1", "a.jsonl:4"], ["b.jsonl:5"]]


@pytest.mark.parametrize("selection", [{}, {"a": np.array([], dtype=np.int64)}])
def test_a_file_of_which_nothing_is_selected_is_not_opened(files, selection) -> None:
    files[0].path.unlink()
    assert list(selected(files[0], selection)) == []


def test_every_format_takes_all_unless_told_otherwise(files) -> None:
    for reader in READERS.values():
        assert reader.select(files, reader.options()) is None
