"""Linear assignment of images to sentences, without scipy: the matrices are small."""

from __future__ import annotations

import numpy as np


def one_to_one(score_RC: np.ndarray) -> list[int]:
    """Return the column of each row, -1 for none, so that the sum of the scores is greatest.

    Rows (images) and columns (sentences) are used once at most; as many as possible are. Among
    equal sums the choice is always the same one. Hungarian method, O(rows^2 columns), for finite
    scores.
    """
    rows, columns = score_RC.shape
    if not rows or not columns:
        return [-1] * rows
    if rows > columns:
        result = [-1] * rows
        for column, row in enumerate(one_to_one(score_RC.T)):
            result[row] = column
        return result
    return _assign(-score_RC.astype(np.float64))


def _assign(cost_RC: np.ndarray) -> list[int]:
    """Return the column of each row at the least cost; there are no more rows than columns.

    Rows join one by one, each along the cheapest alternating path under the prices so far. Row and
    column 0 stand for "none", the others count from 1.
    """
    rows, columns = cost_RC.shape
    price_R, price_C = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=np.intp)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        least_C = np.full(columns + 1, np.inf)
        before_C = np.zeros(columns + 1, dtype=np.intp)
        done_C = np.zeros(columns + 1, dtype=bool)
        while True:
            done_C[column] = True
            current = row_of[column]
            slack_C = np.full(columns + 1, np.inf)
            slack_C[1:] = cost_RC[current - 1] - price_R[current] - price_C[1:]
            better_C = ~done_C & (slack_C < least_C)
            least_C[better_C], before_C[better_C] = slack_C[better_C], column
            column = int(np.where(done_C, np.inf, least_C).argmin())
            step = least_C[column]
            price_R[row_of[done_C]] += step
            price_C[done_C] -= step
            least_C[~done_C] -= step
            if row_of[column] == 0:
                break
        while column:
            row_of[column] = row_of[before_C[column]]
            column = int(before_C[column])
    result = [-1] * rows
    for column in range(1, columns + 1):
        if row_of[column]:
            result[row_of[column] - 1] = column - 1
    return result
