"""Admission: bounds, refusals that say when to come back, and the drain."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from support.components.chunks import FakeClock

from service.core.admission import Admission, AdmissionPolicy
from service.core.drain_rate import DrainRate
from service.core.usage import MAX_LABELS, KeyUsage
from service.domain.caller import ANONYMOUS, Caller, KeyLimits
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.telemetry.metrics import Metrics


def make(clock: FakeClock, *, max_requests: int = 2, max_open: int = 2048, wait_s: float = 0.0) -> Admission:
    return Admission(
        AdmissionPolicy(max_requests, max_live_streams=1, max_open=max_open),
        metrics=Metrics(),
        clock=clock,
        predicted_wait_s=lambda: wait_s,
        jitter=lambda: 0.5,
    )


def context(*, transport="rest", deadline: Deadline | None = None, caller: Caller = ANONYMOUS) -> RequestContext:
    return RequestContext("r", transport, deadline or Deadline(), caller=caller)


async def test_the_bounds_hold_and_requests_are_counted_until_they_leave():
    admission = make(FakeClock())
    with admission.admit(context()), admission.admit(context(transport="grpc")):
        async with admission.places.place(ANONYMOUS), admission.places.place(ANONYMOUS):
            with pytest.raises(ServiceError, match="queue_full"), admission.admit(context()):
                pass
        with (
            admission.admit(context(transport="live")),
            pytest.raises(ServiceError, match="too_many_requests"),
            admission.admit(context(transport="live")),
        ):
            pass
        assert admission.in_flight == 2
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
        async with admission.places.place(ANONYMOUS):
            clock.advance(4.0)
    waits = []
    async with admission.places.place(ANONYMOUS):
        for _ in range(3):
            with pytest.raises(ServiceError, match="queue_full") as caught, admission.admit(context()):
                pass
            waits.append(caught.value.retry_after_s)
    one_end_s = 16.0 / 5  # from the first end to now, over the ends in between
    assert waits == pytest.approx([2 * one_end_s, 3 * one_end_s, 4 * one_end_s])


def test_retry_after_stays_within_reason():
    clock = FakeClock()
    rate = DrainRate(clock=clock, jitter=lambda: 0.5)
    assert rate.retry_after_s() == 5.0
    rate.ended()
    clock.advance(1e-9)
    assert rate.retry_after_s() == 1.0
    clock.advance(1000.0)
    assert rate.retry_after_s() == 5.0


async def test_being_inside_takes_no_place():
    """However many upload or are read, a request whose work can start finds a place."""
    admission = make(FakeClock(), max_requests=1)
    with ExitStack() as inside:
        for _ in range(500):
            inside.enter_context(admission.admit(context()))
        async with admission.places.place(ANONYMOUS):
            assert admission.places.num_working == 1


async def test_nobody_alone_takes_all_that_may_be_inside():
    """At the bound of 100 one caller gets 80, the next 16 of the rest, and a third still gets in."""
    admission = make(FakeClock(), max_open=100)
    with ExitStack() as inside:
        for name, num in (("first", 80), ("second", 16), ("third", 4)):
            for _ in range(num):
                inside.enter_context(admission.admit(context(caller=Caller(address=name))))
            with pytest.raises(ServiceError, match="too_many_requests"):
                inside.enter_context(admission.admit(context(caller=Caller(address=name))))
        assert admission.in_flight == 100
    with admission.admit(context(caller=Caller(address="first"))):
        assert admission.in_flight == 1


async def test_a_key_has_its_own_limits():
    clock = FakeClock()
    admission = make(clock, max_requests=8)
    limits = KeyLimits(requests=2, samples_per_minute=60, bytes_per_minute=6000)
    one, other = Caller(key_id="one", limits=limits), Caller(key_id="other", limits=limits)
    with admission.admit(context(caller=one)), admission.admit(context(caller=one, transport="live")):
        with pytest.raises(ServiceError, match="too_many_requests") as caught, admission.admit(context(caller=one)):
            pass
        assert "2 requests" in caught.value.detail
        with admission.admit(context(caller=other)):
            assert admission.in_flight == 3
    admission.usage.add_samples(one, 59)
    with admission.admit(context(caller=one)):
        admission.usage.add_samples(one, 31)  # what has begun is not cut off
    with pytest.raises(ServiceError, match="too_many_requests") as caught, admission.admit(context(caller=one)):
        pass
    assert caught.value.retry_after_s == pytest.approx(31.0)
    clock.advance(30.5)
    with admission.admit(context(caller=one)):
        pass
    admission.usage.add_bytes(other, 60_000)
    clock.advance(539.0)
    with pytest.raises(ServiceError, match="bytes a minute"), admission.admit(context(caller=other)):
        pass
    clock.advance(2.0)
    with admission.admit(context(caller=other)):
        pass


def test_metric_labels_of_keys_are_bounded_and_are_their_names():
    metrics = Metrics()
    usage = KeyUsage(metrics=metrics, clock=FakeClock())
    for number in range(3 * MAX_LABELS):
        usage.add_request(Caller(key_id=f"id {number}", name=f"team {number}"), outcome="ok")
    usage.add_request(Caller(key_id="id 0", name="team 0"), outcome="refused")
    usage.add_request(ANONYMOUS, outcome="ok")
    samples = [row for row in next(iter(metrics.key_requests_total.collect())).samples if row.name.endswith("_total")]
    assert len({row.labels["key"] for row in samples}) == MAX_LABELS + 1
    told = {(row.labels["key"], row.labels["outcome"]): row.value for row in samples}
    assert (told["team 0", "ok"], told["team 0", "refused"], told["other", "ok"]) == (1, 1, 2 * MAX_LABELS)


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
