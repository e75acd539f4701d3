"""Which handed-over calls run, which wait, and when the device takes the next one."""

from __future__ import annotations

import pytest
from support.components.chunks import FakeClock

from service.batching.device_load import DeviceLoad


def make_load(parallel_calls: int) -> tuple[DeviceLoad, FakeClock]:
    clock = FakeClock()
    load = DeviceLoad(clock=clock)
    load.parallel_calls = parallel_calls
    return load, clock


def test_one_call_runs_and_one_waits():
    load, clock = make_load(1)
    assert load.is_idle
    first = load.hand_over(2.0)
    assert not load.is_free
    assert load.has_room
    second = load.hand_over(3.0)
    assert not load.has_room
    clock.advance(0.5)
    assert load.busy_for_s == pytest.approx(1.5 + 3.0)
    clock.advance(2.5)
    assert load.busy_for_s == pytest.approx(3.0), "a call that is overdue may end at any time"
    load.end(first)
    clock.advance(1.0)
    assert load.busy_for_s == pytest.approx(2.0)
    load.end(second)
    assert load.busy_for_s == 0
    assert load.is_idle


def test_calls_run_side_by_side_and_a_waiting_one_follows_the_first_to_end():
    load, clock = make_load(2)
    slow = load.hand_over(5.0)
    assert load.is_free
    assert load.busy_for_s == 0
    quick = load.hand_over(1.0)
    assert not load.is_free
    assert load.busy_for_s == pytest.approx(1.0)
    waiting = load.hand_over(2.0)
    assert not load.has_room
    assert load.busy_for_s == pytest.approx(3.0), "the third call runs from 1 to 3, the first to 5"
    clock.advance(1.0)
    load.end(quick)
    assert load.has_room
    assert load.busy_for_s == pytest.approx(2.0)
    load.end(slow)
    assert load.is_free
    load.end(waiting)
    assert load.is_idle
