"""Exact assignment of least cost, for the few dozen rows and columns that a frame has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) of least total cost; every row or every column is in one pair.

    The Hungarian method with shortest augmenting paths: Jonker and Volgenant, "A shortest augmenting path algorithm
    for dense and sparse linear assignment problems", Computing 38 (1987). O(n^2 m). Equal costs always give the same
    pairs.

    Args:
        cost: (N, M) finite numbers.

    Returns:
        min(N, M) pairs in order of rows.
    """
    if not cost.size:
        return []
    if cost.shape[0] > cost.shape[1]:
        return sorted((row, column) for column, row in assign(cost.T))
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    row_of = np.full(num_columns, -1)
    for row in range(num_rows):
        _augment(cost, row, row_price, column_price, row_of)
    return sorted((int(row), column) for column, row in enumerate(row_of) if row >= 0)


def _augment(
    cost: NDArray[np.float64],
    start: int,
    row_price: NDArray[np.float64],
    column_price: NDArray[np.float64],
    row_of: NDArray[np.int64],
) -> None:
    """Add the row `start` to the assignment along a shortest path, and adjust the prices (Dijkstra)."""
    num_columns = cost.shape[1]
    distance = np.full(num_columns, np.inf)
    came_from = np.full(num_columns, -1)
    is_done = np.zeros(num_columns, bool)
    row, reached_at, column = start, 0.0, -1
    while True:
        step = reached_at + cost[row] - row_price[row] - column_price
        is_shorter = ~is_done & (step < distance)
        distance[is_shorter] = step[is_shorter]
        came_from[is_shorter] = column
        column = int(np.argmin(np.where(is_done, np.inf, distance)))
        reached_at = float(distance[column])
        is_done[column] = True
        if row_of[column] < 0:
            break
        row = int(row_of[column])
    row_price[start] += reached_at
    for done in np.flatnonzero(is_done):
        if row_of[done] >= 0:
            row_price[row_of[done]] += reached_at - distance[done]
        column_price[done] -= reached_at - distance[done]
    while column >= 0:
        before = int(came_from[column])
        row_of[column] = start if before < 0 else row_of[before]
        column = before
