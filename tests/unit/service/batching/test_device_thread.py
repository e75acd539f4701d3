"""The device's own threads: order, exceptions, bounds, health, an end that does not hang."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support.components.chunks import FakeClock

from service.batching.device import HANDOFF_SIZE, DeviceThreads
from service.domain.errors import ServiceError


def make_thread(*, clock=None, idle_check=lambda: None, idle_s=60.0) -> DeviceThreads:
    thread = DeviceThreads(clock=clock or FakeClock(), call_limit_s=lambda: 10.0, idle_check=idle_check, idle_s=idle_s)
    thread.start()
    return thread


async def test_calls_run_in_order_on_one_thread_that_is_not_ours():
    thread = make_thread()
    first, second = await asyncio.gather(thread.run(threading.get_ident), thread.run(threading.get_ident))
    assert first == second != threading.get_ident()
    assert await thread.stop(timeout_s=30)


async def test_the_thread_outlives_exceptions():
    thread = make_thread()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
    assert await thread.run(lambda: 7) == 7
    assert thread.is_healthy()
    assert await thread.stop(timeout_s=30)
    assert not thread.is_healthy()


async def test_the_handoff_is_bounded_and_what_waits_is_cancelled_at_the_end():
    clock, gate, has_started = FakeClock(), threading.Event(), threading.Event()
    thread = make_thread(clock=clock)

    def hold() -> str:
        has_started.set()
        gate.wait(60)
        return "done"

    running = asyncio.create_task(thread.run(hold))
    await asyncio.to_thread(has_started.wait, 60)
    waiting = [asyncio.create_task(thread.run(lambda: "late")) for _ in range(1 + HANDOFF_SIZE)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceError) as caught:
        await thread.run(lambda: "one too many")
    assert caught.value.code == "queue_full"
    assert thread.is_healthy()
    clock.advance(11)
    assert not thread.is_healthy(), "a call that takes too long is a device that no longer answers"
    stopping = asyncio.create_task(thread.stop(timeout_s=60))
    await asyncio.sleep(0)
    gate.set()
    assert await stopping
    assert await running == "done"
    for task in waiting:
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_idle_device_is_checked_and_a_failing_check_harms_nothing():
    checked = threading.Event()

    def check() -> None:
        checked.set()
        raise RuntimeError("no answer")

    thread = make_thread(idle_check=check, idle_s=0.01)
    assert await asyncio.to_thread(checked.wait, 60)
    assert await thread.run(lambda: 1) == 1
    assert await thread.stop(timeout_s=30)


async def test_progress_starts_the_time_of_a_call_anew():
    clock, gates, reached = FakeClock(), [threading.Event(), threading.Event()], threading.Semaphore(0)
    thread = make_thread(clock=clock)

    def two_steps() -> None:
        for gate in gates:
            thread.note_progress()
            reached.release()
            gate.wait(60)

    running = asyncio.create_task(thread.run(two_steps))
    for gate in gates:
        assert await asyncio.to_thread(reached.acquire, timeout=60)
        clock.advance(9)
        assert thread.is_healthy()
        gate.set()
    await running
    clock.advance(100)
    assert thread.is_healthy(), "between calls"
    assert await thread.stop(timeout_s=30)


async def test_calls_run_at_the_same_time_on_as_many_threads_as_were_started():
    clock = FakeClock()
    threads = DeviceThreads(clock=clock, call_limit_s=lambda: 10.0, idle_check=int, idle_s=60.0, max_threads=3)
    threads.start()
    threads.start(num_threads=3)
    together, gate = threading.Barrier(4), threading.Event()

    def meet() -> int:
        together.wait(60)
        gate.wait(60)
        return threading.get_ident()

    calls = [asyncio.create_task(threads.run(meet)) for _ in range(3)]
    await asyncio.to_thread(together.wait, 60)
    assert threads.is_healthy()
    clock.advance(11)
    assert not threads.is_healthy(), "calls that take too long"
    gate.set()
    assert len(set(await asyncio.gather(*calls))) == 3
    assert threads.is_healthy()
    assert await threads.stop(timeout_s=30)
    assert not threads.is_healthy()
