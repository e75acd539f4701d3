"""Interrupt: ends a body with our error, never swallows another's cancellation."""

from __future__ import annotations

import asyncio

import pytest

from service.aio.interrupt import Interrupt
from service.domain.errors import ServiceError

GONE = ServiceError("client_gone", "gone")


async def test_fire_ends_the_body_with_the_error_and_the_task_lives_on():
    stop = Interrupt()
    asyncio.get_running_loop().call_soon(stop.fire, GONE)
    with pytest.raises(ServiceError) as caught, stop:
        await asyncio.Event().wait()
    assert caught.value is GONE
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_the_first_error_counts_and_none_after_the_end():
    stop = Interrupt()
    loop = asyncio.get_running_loop()
    loop.call_soon(stop.fire, GONE)
    loop.call_soon(stop.fire, ServiceError("draining", "late"))
    with pytest.raises(ServiceError, match="client_gone"), stop:
        await asyncio.Event().wait()
    stop.fire(GONE)
    await asyncio.sleep(0)


async def test_nested_interrupts_end_their_own_body():
    outer, inner = Interrupt(), Interrupt()
    loop = asyncio.get_running_loop()
    with outer:
        loop.call_soon(inner.fire, GONE)
        with pytest.raises(ServiceError, match="client_gone"), inner:
            await asyncio.Event().wait()
    outer = Interrupt()
    loop.call_soon(outer.fire, ServiceError("draining", "end"))
    with pytest.raises(ServiceError, match="draining"), outer, Interrupt():
        await asyncio.Event().wait()


async def test_cancellation_from_outside_wins():
    stop = Interrupt()

    async def body() -> None:
        with stop:
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    stop.fire(GONE)
    with pytest.raises(asyncio.CancelledError):
        await task
