"""Turns: who gets the event loop when, by a clock that each item advances."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from service.aio.turns import SLICE_S, Turns

HANG_S = 20
_ITEM_S = SLICE_S / 2


class Works:
    """Computations whose items take time on the clock; `order` has the items as they were consumed."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.order: list[str] = []
        self.is_busy = False
        self.turns = Turns(clock=lambda: self.now_s, is_busy=lambda: self.is_busy)

    def items(self, name: str, num: int) -> Iterator[str]:
        for _ in range(num):
            self.now_s += _ITEM_S
            yield name

    async def consume(self, name: str, num: int = 6) -> None:
        async for item in self.turns.paced(self.items(name, num)):
            self.order.append(item)


async def test_computations_take_turns_of_one_slice() -> None:
    works = Works()
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(works.consume("a"), works.consume("b"))
    assert "".join(works.order) == "aabbaabbaabb"


async def test_the_loop_runs_others_between_two_turns() -> None:
    works = Works()
    consuming = asyncio.create_task(works.consume("a", 100))
    num_steps = 0
    async with asyncio.timeout(HANG_S):
        while not consuming.done():
            await asyncio.sleep(0)
            num_steps += 1
    assert num_steps >= 50


async def test_turns_rest_while_others_work() -> None:
    works = Works()
    loop, delays = asyncio.get_running_loop(), []
    plain = loop.call_later

    def call_later(delay_s: float, *rest: object) -> asyncio.TimerHandle:
        delays.append(delay_s)
        return plain(0, *rest)  # type: ignore[arg-type]

    loop.call_later = call_later  # type: ignore[method-assign]
    try:
        await works.consume("a")
        assert set(delays) == {0.0}
        delays.clear()
        works.is_busy = True
        await works.consume("a")
    finally:
        del loop.call_later  # type: ignore[attr-defined]
    assert min(delays) == pytest.approx(4 * SLICE_S)


async def test_who_leaves_the_line_gives_no_turn_away() -> None:
    works = Works()
    first, leaving, last = (asyncio.create_task(works.consume(name)) for name in "abc")
    await asyncio.sleep(0)
    leaving.cancel()
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(first, last)
    assert "".join(works.order) == "aabbccaaccaacc"
    await works.consume("d", 1)
    assert works.order[-1] == "d"


async def test_a_short_computation_waits_behind_nobody() -> None:
    works = Works()
    long = [asyncio.create_task(works.consume(name, 100)) for name in "abc"]
    await asyncio.sleep(0)
    works.order.clear()
    await works.consume("s", 2)
    assert works.order == ["s", "s"]
    async with asyncio.timeout(HANG_S):
        await asyncio.gather(*long)
