"""Which decoders begin at once, which wait for a core, and what a decoder gives back that ends early."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from support.virtual_time import run_virtual

from service.media.core_use import CoreUse
from service.media.decoders.slot import DecoderSlots

SHORT, LARGE = 50_000, 7_000_000
HEAD_START_S = 0.5


class Decoders:
    """Takes slots under names, and says which are held."""

    def __init__(self, num_slots: int, num_cores: int | None) -> None:
        self.cores = CoreUse(3, num_cores=num_cores)
        self._slots = DecoderSlots(num_slots, self.cores)
        self._held: dict[str, ExitStack] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, num_bytes: int, *names: str) -> None:
        for name in names:
            self._tasks[name] = asyncio.create_task(self._take(name, num_bytes))
        await asyncio.sleep(0.001)

    async def _take(self, name: str, num_bytes: int) -> None:
        self._held[name] = await self._slots.acquire(num_bytes)

    async def end(self, name: str) -> None:
        self._held.pop(name).close()
        await asyncio.sleep(0.001)

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.sleep(0.001)

    @property
    def working(self) -> str:
        return "".join(sorted(self._held))


def test_larger_uploads_begin_one_per_core_when_one_before_them_ends() -> None:
    async def work() -> None:
        decoders = Decoders(8, num_cores=2)
        await decoders.ask(LARGE, "a", "b", "c", "d")
        assert decoders.working == "ab"
        await decoders.end("b")
        assert decoders.working == "ac"
        await decoders.end("a")
        assert decoders.working == "cd"

    run_virtual(work())


def test_long_ones_share_the_cores_with_those_that_came_later() -> None:
    async def work() -> None:
        decoders = Decoders(5, num_cores=2)
        await decoders.ask(LARGE, *"abcdef")
        assert decoders.working == "ab"
        await asyncio.sleep(HEAD_START_S)
        assert decoders.working == "abcd"
        await decoders.end("a")
        assert decoders.working == "bcd", "its head start was over, so no other begins now"
        await asyncio.sleep(HEAD_START_S)
        assert decoders.working == "bcdef"

    run_virtual(work())


def test_short_uploads_begin_at_once_while_a_slot_is_free() -> None:
    async def work() -> None:
        decoders = Decoders(4, num_cores=2)
        await decoders.ask(LARGE, "a", "b", "c")
        await decoders.ask(SHORT, "s", "t", "u")
        assert decoders.working == "abst"
        await decoders.end("a")
        assert decoders.working == "bstu", "c has a head start, u came first"

    run_virtual(work())


def test_all_slots_begin_at_once_where_the_cores_are_not_told() -> None:
    async def work() -> None:
        decoders = Decoders(3, num_cores=None)
        await decoders.ask(LARGE, "a", "b", "c", "d")
        assert decoders.working == "abc"

    run_virtual(work())


@pytest.mark.parametrize("num_slots", [1, 8], ids=["waiting for a slot", "waiting for a core"])
def test_one_that_gives_up_leaves_its_place(num_slots: int) -> None:
    async def work() -> None:
        decoders = Decoders(num_slots, num_cores=2 if num_slots == 1 else 1)
        await decoders.ask(LARGE, "a", "b", "c")
        assert decoders.cores.is_full, "those that wait are counted"
        await decoders.give_up("b")
        assert not decoders.cores.is_full
        await decoders.end("a")
        assert decoders.working == "c"
        await decoders.end("c")
        await decoders.ask(LARGE, "d")
        assert decoders.working == "d"

    run_virtual(work())
