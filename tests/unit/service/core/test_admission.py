"""Admission: bounds, refusals that say when to come back, and the drain."""

from __future__ import annotations

import asyncio

import pytest
from support.chunks import FakeClock

from service.core.admission import Admission, AdmissionPolicy
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.telemetry.metrics import Metrics


def make(clock: FakeClock, *, max_requests: int = 2, wait_s: float = 0.0) -> Admission:
    return Admission(
        AdmissionPolicy(max_requests, max_live_streams=1),
        metrics=Metrics(),
        clock=clock,
        predicted_wait_s=lambda: wait_s,
        jitter=lambda: 0.5,
    )


def context(*, transport="rest", deadline: Deadline | None = None) -> RequestContext:
    return RequestContext("r", transport, deadline or Deadline())


async def test_the_bound_holds_and_places_come_back():
    admission = make(FakeClock())
    with admission.admit(context()), admission.admit(context(transport="grpc")):
        assert admission.in_flight == 2
        with pytest.raises(ServiceError, match="queue_full"), admission.admit(context()):
            pass
        with (
            admission.admit(context(transport="live")),
            pytest.raises(ServiceError, match="too_many_requests"),
            admission.admit(context(transport="live")),
        ):
            pass
    assert admission.in_flight == 0
    with admission.admit(context()):
        assert admission.in_flight == 1


async def test_a_place_comes_back_after_an_error():
    admission = make(FakeClock())
    with pytest.raises(ValueError, match="inside"), admission.admit(context()):
        raise ValueError("inside")
    assert admission.in_flight == 0


async def test_retry_after_follows_the_measured_rate_and_the_line():
    clock = FakeClock()
    admission = make(clock, max_requests=1)
    for _ in range(5):
        with admission.admit(context()):
            clock.advance(4.0)
    waits = []
    with admission.admit(context()):
        for _ in range(3):
            with pytest.raises(ServiceError) as caught, admission.admit(context()):
                pass
            waits.append(caught.value.retry_after_s)
    one_end_s = 16.0 / 5  # from the first end to now, over the ends in between
    assert waits == pytest.approx([2 * one_end_s, 3 * one_end_s, 4 * one_end_s])


async def test_retry_after_stays_within_reason():
    clock = FakeClock()
    admission = make(clock, max_requests=1)
    with admission.admit(context()):
        assert admission.retry_after_s() == 5.0
    clock.advance(1e-9)
    assert admission.retry_after_s() == 1.0
    clock.advance(1000.0)
    assert admission.retry_after_s() == 5.0


async def test_what_cannot_be_done_in_time_is_refused_at_once():
    clock = FakeClock()
    admission = make(clock, wait_s=3.0)
    with (
        pytest.raises(ServiceError, match="cannot_meet_deadline") as caught,
        admission.admit(context(deadline=Deadline.after(2.0, clock=clock))),
    ):
        pass
    assert "3.0 s" in caught.value.detail
    with admission.admit(context(deadline=Deadline.after(4.0, clock=clock))):
        assert admission.in_flight == 1


async def test_drain_refuses_new_work_waits_for_old_and_ends_the_rest():
    admission = make(FakeClock(), max_requests=3)
    entered, ended = asyncio.Event(), []

    async def request() -> None:
        try:
            with admission.admit(context()):
                entered.set()
                await asyncio.Event().wait()
        except ServiceError as error:
            ended.append(error.code)

    running = asyncio.create_task(request())
    await entered.wait()
    admission.start_draining()
    with pytest.raises(ServiceError, match="draining"), admission.admit(context()):
        pass
    assert not await admission.wait_until_idle(0.0)
    admission.stop_running()
    assert await admission.wait_until_idle(None)
    await running
    assert ended == ["draining"]


async def test_cancellation_from_elsewhere_passes_through_a_permit():
    admission = make(FakeClock())
    entered = asyncio.Event()

    async def request() -> None:
        with admission.admit(context()):
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(request())
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert admission.in_flight == 0
