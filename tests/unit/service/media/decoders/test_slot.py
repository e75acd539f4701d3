"""Which decoders begin at once, which wait for a core, and what a decoder gives back that ends early."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from support.virtual_time import on_virtual_time, virtual_clock

from service.aio.byte_budget import ByteBudget
from service.domain.deadline import Deadline
from service.media.core_use import CoreUse
from service.media.decoders.slot import DecoderSlots, Slot

SHORT, LARGE = 50_000, 7_000_000
HEAD_START_S = 0.5


@dataclass
class Sized:
    """As much of an upload as a slot looks at."""

    size: int


class Decoders:
    """Readers under names, and which of them have a slot."""

    def __init__(self, num_slots: int, *, num_cores: int | None, num_bytes: int = 1000) -> None:
        self.cores = CoreUse(3, num_cores=num_cores)
        self._slots = DecoderSlots(num_slots, self.cores)
        self._memory = ByteBudget(num_bytes)
        self._readers: dict[str, Slot] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._working: set[str] = set()

    async def ask(self, size: int, *names: str) -> None:
        for name in names:
            upload = Sized(size)
            self._readers[name] = Slot(self._slots, self._memory, upload, Deadline(), virtual_clock)  # type: ignore[arg-type]
            self._run(name, self._readers[name].take())
        await settle()

    async def grow(self, name: str, *, is_begun: bool) -> None:
        self._readers[name].leave()
        self._working.discard(name)
        await settle()
        self._run(name, self._readers[name].take(is_begun=is_begun))
        await settle()

    async def swap_memory(self, name: str, num_bytes: int) -> None:
        self._working.discard(name)
        self._run(name, self._readers[name].swap_memory(num_bytes))
        await settle()

    async def end(self, name: str) -> None:
        self._readers[name].end()
        self._working.discard(name)
        await settle()

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await settle()
        await self.end(name)

    @property
    def working(self) -> str:
        return "".join(sorted(self._working))

    def _run(self, name: str, taking: object) -> None:
        async def run() -> None:
            await taking  # type: ignore[misc]
            self._working.add(name)

        self._tasks[name] = asyncio.create_task(run())


async def settle() -> None:
    await asyncio.sleep(0.001)


@on_virtual_time
async def test_larger_uploads_begin_one_per_core_when_one_before_them_ends() -> None:
    decoders = Decoders(8, num_cores=2)
    await decoders.ask(LARGE, "a", "b", "c", "d")
    assert decoders.working == "ab"
    await decoders.end("b")
    assert decoders.working == "ac"
    await decoders.end("a")
    assert decoders.working == "cd"


@on_virtual_time
async def test_long_ones_share_the_cores_with_those_that_came_later() -> None:
    decoders = Decoders(5, num_cores=2)
    await decoders.ask(LARGE, *"abcdef")
    assert decoders.working == "ab"
    await asyncio.sleep(HEAD_START_S)
    assert decoders.working == "abcd"
    await decoders.end("a")
    assert decoders.working == "bcd", "its head start was over, so no other begins now"
    await asyncio.sleep(HEAD_START_S)
    assert decoders.working == "bcdef"


@on_virtual_time
async def test_short_uploads_begin_at_once_while_a_slot_is_free() -> None:
    decoders = Decoders(4, num_cores=2)
    await decoders.ask(LARGE, "a", "b", "c")
    await decoders.ask(SHORT, "s", "t", "u")
    assert decoders.working == "abst"
    await decoders.end("a")
    assert decoders.working == "bstu", "c has a head start, u came first"


@on_virtual_time
async def test_all_slots_begin_at_once_where_the_cores_are_not_told() -> None:
    decoders = Decoders(3, num_cores=None)
    await decoders.ask(LARGE, "a", "b", "c", "d")
    assert decoders.working == "abc"


@on_virtual_time
async def test_an_upload_that_grows_goes_on_without_another_head_start() -> None:
    decoders = Decoders(8, num_cores=1)
    await decoders.ask(LARGE, "a", "b", "c")
    await decoders.grow("a", is_begun=True)
    assert decoders.working == "ab", "b began when a waited for its upload"
    await decoders.grow("b", is_begun=False)
    assert decoders.working == "ac", "b has decoded nothing yet, and waits again"


@on_virtual_time
async def test_a_head_start_goes_on_while_memory_is_waited_for() -> None:
    decoders = Decoders(8, num_cores=1, num_bytes=1000)
    await decoders.ask(LARGE, "a", "b")
    await decoders.swap_memory("a", 1000)
    assert decoders.working == "a"
    await decoders.swap_memory("a", 400)
    assert decoders.working == "a"
    await asyncio.sleep(HEAD_START_S)
    assert decoders.working == "ab"
    await decoders.swap_memory("b", 700)
    assert decoders.working == "a", "b waits for memory, without slot and head start"
    await decoders.ask(LARGE, "c")
    await asyncio.sleep(HEAD_START_S)
    assert decoders.working == "ac"
    await decoders.end("a")
    assert decoders.working == "bc"


@pytest.mark.parametrize("num_slots", [1, 8], ids=["waiting for a slot", "waiting for a core"])
@on_virtual_time
async def test_one_that_gives_up_leaves_its_place(num_slots: int) -> None:
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
