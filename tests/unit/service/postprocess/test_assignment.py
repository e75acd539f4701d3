"""The assignment equals the best of all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.postprocess.assignment import assign

SIDES = st.integers(0, 5)


def least_cost(cost: np.ndarray) -> float:
    """The total of the best pairing, by trying all."""
    if cost.shape[0] > cost.shape[1]:
        cost = cost.T
    rows = range(cost.shape[0])
    choices = itertools.permutations(range(cost.shape[1]), cost.shape[0])
    return min(sum(float(cost[row, column]) for row, column in zip(rows, choice, strict=True)) for choice in choices)


@given(SIDES, SIDES, st.randoms(use_true_random=False), st.booleans())
def test_the_total_is_the_least(num_rows: int, num_columns: int, random: object, is_tied: bool) -> None:
    values = [random.randint(0, 3) if is_tied else random.uniform(-5, 5) for _ in range(num_rows * num_columns)]  # type: ignore[attr-defined]
    cost = np.array(values, float).reshape(num_rows, num_columns)
    pairs = assign(cost)
    assert len(pairs) == len({row for row, _ in pairs}) == len({column for _, column in pairs})
    assert len(pairs) == min(num_rows, num_columns)
    assert sum(cost[pair] for pair in pairs) == pytest.approx(least_cost(cost))
    assert pairs == sorted(pairs) == assign(cost)
