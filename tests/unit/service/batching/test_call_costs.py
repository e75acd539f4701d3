"""Costs of batch shapes that were measured wrong at the start, and what the calls since make of them."""

from __future__ import annotations

import pytest

from service.batching.call_costs import CallCosts
from service.batching.plan import BatchPlan

SIZES = (1, 2, 4, 8, 16)


def s_per_sample(measured_s: dict[int, float], true_s: dict[int, float], *, num_calls: int) -> float:
    """Seconds a sample of the last half of the calls that are planned for a long queue."""
    costs, plan, sizes = CallCosts(measured_s), BatchPlan(measured_s), []
    for _ in range(num_calls):
        sizes.append(plan.next_size(100))
        costs.note_call(sizes[-1], true_s[sizes[-1]])
        plan = costs.updated(plan)
    late = sizes[num_calls // 2 :]
    return sum(true_s[size] for size in late) / sum(late)


def test_costs_measured_too_high_are_forgotten() -> None:
    true_s = {size: 0.004 + 0.006 * size for size in SIZES}
    measured_s = true_s | {2: 0.050, 4: 0.090, 8: 0.150, 16: 0.300}
    assert BatchPlan(measured_s).next_size(100) == 1, "all larger shapes were measured beside other work"
    assert s_per_sample(measured_s, true_s, num_calls=2_000) < 1.02 * true_s[16] / 16


def test_a_cost_measured_too_low_is_corrected() -> None:
    true_s = {size: 0.010 * size for size in SIZES} | {16: 0.300}
    measured_s = true_s | {16: 0.080}
    assert BatchPlan(measured_s).next_size(100) == 16
    assert s_per_sample(measured_s, true_s, num_calls=2_000) < 1.02 * 0.010, "tried again now and then"


def test_a_machine_that_became_slower_is_followed() -> None:
    costs = CallCosts({1: 0.010, 2: 0.020})
    for _ in range(100):
        costs.note_call(2, 0.060)
    assert costs.planned_s()[2] == pytest.approx(0.060)


def test_one_slow_call_changes_no_choice() -> None:
    measured_s = {size: 0.010 + 0.004 * size for size in SIZES}
    costs, before = CallCosts(measured_s), BatchPlan(measured_s)
    costs.note_call(16, 10.0)
    after = costs.updated(before)
    assert [after.next_size(num) for num in range(1, 17)] == [before.next_size(num) for num in range(1, 17)]
    assert after.cost_s(16) == pytest.approx(measured_s[16], rel=0.03)


def test_calls_as_expected_keep_the_plan() -> None:
    measured_s = {size: 0.010 * size for size in SIZES}
    costs, plan = CallCosts(measured_s), BatchPlan(measured_s)
    costs.note_call(8, 0.080)
    assert costs.updated(plan) is plan


def test_a_larger_shape_is_never_planned_below_a_smaller_one() -> None:
    costs = CallCosts({1: 0.010, 2: 0.011})
    for _ in range(5_000):
        costs.note_call(1, 0.010)
    assert costs.planned_s() == {1: 0.010, 2: 0.010}


def test_shapes_that_did_not_fit_stay_out_of_the_plan() -> None:
    costs = CallCosts({1: 0.010, 2: 0.011, 4: 0.012})
    smaller = BatchPlan({1: 0.010, 2: 0.011})
    costs.note_call(1, 0.001)
    assert costs.updated(smaller).sizes == (1, 2)


def test_full_batches_are_never_split_for_a_try() -> None:
    true_s = {size: 0.020 + 0.001 * size for size in SIZES}
    assert s_per_sample(true_s, true_s, num_calls=5_000) == pytest.approx(true_s[16] / 16)
