"""Rows by score against a plain sort, on files with COYO's columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.data.make import picture
from vila_core.data.readers import READERS
from vila_core.data.readers.coyo import CoyoOptions, select
from vila_core.data.readers.files import corpus_files
from vila_core.data.readers.ranking import best_rows, best_share, cut_of
from vila_core.data.sample import Sample
from vila_core.errors import UserError

B32, L14 = "clip_similarity_vitb32", "clip_similarity_vitl14"
Rows = list[tuple[str, int]]


def write(folder: Path, files: Sequence[Sequence[float | None]], **more: Any) -> None:
    """Files with the scores in one column and zeros in the other."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scores in enumerate(files):
        columns = {
            B32: pa.array(scores, pa.float64()),
            L14: pa.array([0.0] * len(scores), pa.float64()),
        }
        pq.write_table(
            pa.table({**columns, **more}), folder / f"part-{number:05d}-a.parquet", row_group_size=3
        )


def chosen(selection: dict[str, np.ndarray] | None) -> Rows:
    assert selection is not None
    for rows in selection.values():
        assert (np.diff(rows) > 0).all()
    return [(shard, int(row)) for shard, rows in selection.items() for row in rows]


def by_sorting(files: Sequence[Sequence[float | None]], count: int, above: float | None) -> Rows:
    rows = [
        (-score, number, row)
        for number, scores in enumerate(files)
        for row, score in enumerate(scores)
        if score is not None and not math.isnan(score) and (above is None or score > above)
    ]
    return sorted((f"{number:05d}", row) for _, number, row in sorted(rows)[:count])


SCORES = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 0.5, 0.25, -0.25, math.inf, -math.inf, math.nan]),
    st.floats(-1, 1),
)


@given(
    files=st.lists(st.lists(SCORES, max_size=12), min_size=1, max_size=3),
    count=st.integers(0, 30),
    above=st.none() | st.sampled_from([0.25, -0.5]),
)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_best_rows_are_those_of_a_stable_sort(
    tmp_path: Path, files: list[list[float | None]], count: int, above: float | None
) -> None:
    folder = tmp_path / "corpus"
    for old in folder.glob("*"):
        old.unlink()
    write(folder, files)
    taken = chosen(best_rows(corpus_files(folder), [B32, L14], count, above=above))
    assert taken == by_sorting(files, count, above)


@given(
    keys=st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([5, 2**63, 2**63 + 1]), max_size=60),
    count=st.integers(1, 70),
    most=st.integers(0, 20),
    pieces=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_cut_is_exact_however_few_may_be_held(
    keys: list[int], count: int, most: int, pieces: int
) -> None:
    def batches() -> Iterator[np.ndarray]:
        return iter(np.array_split(np.array(keys, dtype=np.uint64), pieces))

    cut, equal = cut_of(batches, count, held=len(keys), most=most)
    if len(keys) <= count:
        assert equal + sum(key > cut for key in keys) >= len(keys)
    else:
        assert cut == sorted(keys, reverse=True)[count - 1]
        assert equal == count - sum(key > cut for key in keys)


def test_equal_scores_go_to_the_first_file_and_row(tmp_path: Path) -> None:
    write(tmp_path, [[0.3, 0.5, 0.5], [0.5, 0.9]])
    assert chosen(best_rows(corpus_files(tmp_path), [B32], 3)) == [
        ("00000", 1),
        ("00000", 2),
        ("00001", 1),
    ]


def test_the_score_is_a_sum_in_float64_of_the_columns_that_are_named(tmp_path: Path) -> None:
    columns = {B32: [0.3, 0.2, 0.1], L14: [0.1, 0.3, 0.35], "aesthetic": [1, 2, 3]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    files = corpus_files(tmp_path)
    assert chosen(select(files, CoyoOptions(top=1))) == [("a", 1)]
    assert chosen(select(files, CoyoOptions(top=1, score=(B32,)))) == [("a", 0)]
    assert chosen(select(files, CoyoOptions(top=1, score=("aesthetic",)))) == [("a", 2)]
    small = pa.table({B32: pa.array([1.0, 1.0], pa.float32()), L14: pa.array([0.0, 1e-9])})
    pq.write_table(small, tmp_path / "a.parquet")
    assert chosen(select(files, CoyoOptions(top=1))) == [("a", 1)]


def test_the_released_rule_takes_a_share_of_each_file(tmp_path: Path) -> None:
    """VILA's script: of the rows over 0.6 the best, int(0.2 * rows of the file) of them."""
    write(tmp_path, [[0.9, 0.7, 0.8] + [0.1] * 8, [0.61] + [0.6] * 10, [0.9] * 4])
    files = corpus_files(tmp_path)
    options = CoyoOptions(top_share=0.2, score_above=0.6)
    assert chosen(select(files, options)) == [("00000", 0), ("00000", 2), ("00001", 0)]
    assert len(chosen(best_share(files, [B32], 1.0))) == 26


def test_a_score_alone_can_be_the_rule(tmp_path: Path) -> None:
    write(tmp_path, [[0.9, 0.6, 0.7]])
    files = corpus_files(tmp_path)
    assert chosen(select(files, CoyoOptions(score_above=0.6))) == [("00000", 0), ("00000", 2)]
    assert select(files, CoyoOptions()) is None


def test_samples_of_the_best_rows_carry_their_scores(tmp_path: Path) -> None:
    write(
        tmp_path,
        [[0.2, 0.9, 0.4]],
        id=[0, 1, 2],
        text=["a", "b", "c"],
        image=pa.array([picture()] * 3),
        watermark_score=pa.array([0.1, None, math.nan]),
        num_faces=[0, 1, 0],
    )
    rows = list(READERS["coyo"].read(tmp_path, corpus="coyo", options=CoyoOptions(top=2)))
    assert all(isinstance(row, Sample) for row in rows)
    first, second = [row for row in rows if isinstance(row, Sample)]
    assert (first.key, second.key) == ("coyo/00000/000001", "coyo/00000/000002")
    common = {"url": None, L14: 0.0, "licence": "CC-BY-4.0"}
    name = "part-00000-a.parquet row"
    assert first.meta == {"id": 1, "num_faces": 1, B32: 0.9, "source": f"{name} 1", **common}
    assert second.meta == {"id": 2, "num_faces": 0, B32: 0.4, "source": f"{name} 2", **common}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({B32: [0.1]}, f"'{L14}': there is no such column; set options.score to columns of"),
        ({B32: [0.1], L14: ["a"]}, f"'{L14}': is not a column of numbers"),
    ],
)
def test_a_missing_column_is_named_with_file_and_fix(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    write(tmp_path, [[0.5]])
    pq.write_table(pa.table(columns), tmp_path / "part-00001.parquet")
    with pytest.raises(UserError) as error:
        select(corpus_files(tmp_path), CoyoOptions(top=1))
    assert f"part-00001.parquet: {words}" in str(error.value)
    assert f"here {B32}, or unset options.top" in str(error.value)


def test_files_that_can_not_be_ranked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"a\.jsonl: ranking by score reads columns of parquet"):
        select(corpus_files(tmp_path), CoyoOptions(top=1))
    (tmp_path / "a.jsonl").rename(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: is not a readable parquet file"):
        select(corpus_files(tmp_path), CoyoOptions(top=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 5, "top_share": 0.2}, "exclude each other"),
        ({"score": [B32, B32]}, "named twice"),
        ({"score": []}, "at least 1"),
        ({"top": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        CoyoOptions.model_validate(options)
