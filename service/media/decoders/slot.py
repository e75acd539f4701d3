"""Resources of a decoder: one of a bounded number of slots, and memory out of a bounded total."""

from __future__ import annotations

import asyncio
from functools import partial

from service.aio.byte_budget import ByteBudget
from service.aio.waits import bounded_wait
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.media.core_use import CoreUse
from service.media.decoders.child_channel import Channel


class DecoderSlots:
    """The slots of all decoders.

    Args:
        num_slots: decoders at once.
        cores: learns of each decoder that has a slot.
    """

    def __init__(self, num_slots: int, cores: CoreUse) -> None:
        self._free = asyncio.Semaphore(num_slots)
        self._cores = cores

    async def acquire(self) -> None:
        """Wait for a slot, first come, first served, and take it."""
        await self._free.acquire()
        self._cores.begin()

    def release(self) -> None:
        """Give a slot back."""
        self._cores.end()
        self._free.release()


class Slot:
    """One reader's slot among the decoders that may work at once, and its share of their memory.

    A reader that waits for memory holds neither slot nor memory, so waiting readers cannot block each other.
    """

    def __init__(self, slots: DecoderSlots, memory: ByteBudget, deadline: Deadline, clock: Clock) -> None:
        self._slots = slots
        self._memory = memory
        self._deadline = deadline
        self._clock = clock
        self._is_taken = False
        self._num_bytes = 0
        self.waited_s = 0.0

    async def take(self) -> None:
        """Wait for a slot, first come, first served; raises `deadline_exceeded`."""
        since_s = self._clock()
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "decode")):
            await self._slots.acquire()
        self._is_taken = True
        self.waited_s += self._clock() - since_s

    async def swap_memory(self, num_bytes: int) -> None:
        """Release this reader's memory and wait for another amount, first come, first served.

        Raises:
            ServiceError: `deadline_exceeded`.
        """
        if num_bytes == self._num_bytes:
            return
        self._release_memory()
        self.leave()
        since_s = self._clock()
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "decode")):
            await self._memory.acquire(num_bytes)
        self._num_bytes = num_bytes
        self.waited_s += self._clock() - since_s
        await self.take()

    def leave(self) -> None:
        """Release the slot (idempotent) and keep the memory."""
        if self._is_taken:
            self._is_taken = False
            self._slots.release()

    def end(self) -> None:
        """Release slot and memory (idempotent)."""
        self.leave()
        self._release_memory()

    def end_with(self, channel: Channel | None) -> None:
        """Kill the child of a channel, and release slot and memory once it has ended; at once without a child."""
        if channel is None:
            self.end()
        else:
            channel.close(then=self.end)

    def _release_memory(self) -> None:
        num_bytes, self._num_bytes = self._num_bytes, 0
        if num_bytes:
            self._memory.release(num_bytes)
