"""The choice of batch shapes from measured costs."""

from __future__ import annotations

import pytest

from service.batching.plan import HANDOVER_S, BatchPlan
from service.batching.policy import BatchPolicy

SIZES = (1, 2, 4, 8, 16)


def test_a_fixed_cost_per_call_pads_up():
    plan = BatchPlan({size: 0.020 + 0.001 * size for size in SIZES})
    assert [plan.next_size(num) for num in (1, 3, 5, 9, 16, 40)] == [1, 4, 8, 16, 16, 16]


def test_a_cost_that_grows_with_the_shape_splits_instead():
    plan = BatchPlan({size: 0.010 * size for size in SIZES})
    assert plan.next_size(9) == 8
    assert plan.next_size(3) == 2
    assert plan.next_size(1) == 1


def test_the_plan_is_over_no_later_than_any_greedy_choice():
    costs_s = {1: 0.010, 2: 0.014, 4: 0.030, 8: 0.041, 16: 0.090}
    plan = BatchPlan(costs_s)

    def total_s(num: int) -> float:
        spent_s = 0.0
        while num > 0:
            size = plan.next_size(num)
            spent_s, num = spent_s + costs_s[size], num - size
        return spent_s

    for num in range(1, 17):
        padded_s = costs_s[plan.shape_of(num)]
        floor = max(size for size in SIZES if size <= num)
        split_s = costs_s[floor] + total_s(num - floor)
        assert total_s(num) <= min(padded_s, split_s) + 5 * HANDOVER_S


def test_smaller_plans_end_with_none():
    plan = BatchPlan(dict.fromkeys(SIZES, 1.0))
    smaller = plan.without(8)
    assert smaller is not None
    assert smaller.max_batch == 4
    assert smaller.next_size(9) == 4
    assert plan.without(1) is None
    with pytest.raises(ValueError, match="no batch shape"):
        BatchPlan({})


def test_policy_sizes_end_with_the_largest_batch():
    assert BatchPolicy(max_batch=12).sizes == (1, 2, 4, 8, 12)
    assert BatchPolicy(max_batch=1).sizes == (1,)
    with pytest.raises(ValueError, match="at least 1"):
        BatchPolicy(max_batch=0)


def test_the_efficient_size_is_the_smallest_that_costs_hardly_more_than_the_best():
    assert BatchPlan({1: 0.009, 2: 0.014, 4: 0.0232, 8: 0.0438, 16: 0.0902}).efficient_size == 4
    assert BatchPlan({1: 0.13, 2: 0.27}).efficient_size == 1
    assert BatchPlan({1: 0.02, 64: 0.084}).efficient_size == 64


def test_the_best_size_is_the_smallest_that_costs_as_much_as_the_best_but_for_noise():
    assert BatchPlan({1: 0.009, 2: 0.014, 4: 0.0232, 8: 0.0438, 16: 0.0902}).best_size == 8
    assert BatchPlan({1: 0.13, 2: 0.255}).best_size == 1
    assert BatchPlan({1: 0.02, 64: 0.084}).best_size == 64
