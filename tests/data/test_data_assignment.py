from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila_core.data.assignment import one_to_one


@pytest.mark.parametrize(
    ("scores", "columns"),
    [
        ([[0.9, 0.8], [0.8, 0.1]], [1, 0]),  # the greedy choice, 0 and 1, would sum to less
        ([[0.5, 0.9, 0.1]], [1]),
        ([[0.2], [0.7], [0.6]], [-1, 0, -1]),
        ([[7.0, 5.0, 1.0], [6.0, 1.0, 0.0], [5.0, 4.0, 2.0]], [1, 0, 2]),
        ([[-1.0, -2.0], [-3.0, -5.0]], [1, 0]),
    ],
)
def test_known_assignments(scores: list[list[float]], columns: list[int]) -> None:
    assert one_to_one(np.array(scores)) == columns


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    assert one_to_one(np.zeros(shape)) == [-1] * shape[0]


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    values = draw(
        st.lists(st.integers(-4, 4), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    )
    return np.array(values, dtype=np.float64).reshape(shape)


@given(matrices())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_other_assignment_has_a_greater_sum(score_RC: np.ndarray) -> None:
    columns = one_to_one(score_RC)
    used = [column for column in columns if column >= 0]
    assert len(used) == len(set(used)) == min(score_RC.shape)
    total = sum(score_RC[row, column] for row, column in enumerate(columns) if column >= 0)
    small = score_RC if score_RC.shape[0] <= score_RC.shape[1] else score_RC.T
    best = max(
        sum(small[row, column] for row, column in enumerate(choice))
        for choice in permutations(range(small.shape[1]), small.shape[0])
    )
    assert total == best
    assert one_to_one(score_RC.copy()) == columns
