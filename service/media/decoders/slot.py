"""Resources of a decoder: one of a bounded number of slots, and memory out of a bounded total."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial

from service.aio.byte_budget import ByteBudget
from service.aio.waits import bounded_wait
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.media.core_use import CoreUse
from service.media.decoders.child_channel import Channel
from service.media.upload import Upload

# Eight decoders that share two cores take 10 % more CPU for clips of 720p (7 MB, 0.2 s of work) than two do, because
# each change from one to another fills the caches anew.
_HEAD_START_S = 0.5
# Work on an upload of up to this size is over before it could disturb others for long.
_SHORT_BYTES = 1_000_000


class DecoderSlots:
    """The slots of all decoders.

    Args:
        num_slots: decoders at once.
        cores: learns of each decoder that has a slot or waits for one.
    """

    def __init__(self, num_slots: int, cores: CoreUse) -> None:
        self._free = asyncio.Semaphore(num_slots)
        self._starts = asyncio.Semaphore(cores.num_cores or num_slots)
        self._cores = cores

    def head_start(self) -> HeadStart:
        """Return a head start to wait for."""
        return HeadStart(self._starts)

    async def acquire(self, start: HeadStart | None) -> ExitStack:
        """Wait for the head start if one is given, then for a slot, each first come, first served.

        Closing what is returned gives the slot back, but not the head start.
        """
        with ExitStack() as held:
            self._cores.begin()
            held.callback(self._cores.end)
            if start is not None:
                await start.begin()
            await self._free.acquire()
            held.callback(self._free.release)
            return held.pop_all()


class HeadStart:
    """Of a decoder that begins, one per core: when it has ended, or `_HEAD_START_S` later, the next one begins.

    So clips of some seconds are decoded one after another, while a long one shares the cores with those that came
    later.
    """

    def __init__(self, starts: asyncio.Semaphore) -> None:
        self._starts = starts
        self._has_begun = False
        self._timer: asyncio.TimerHandle | None = None  # while it lasts

    async def begin(self) -> None:
        """Wait for it. Returns at once if it has begun before, even if it is over."""
        if not self._has_begun:
            await self._starts.acquire()
            self._has_begun = True
            self._timer = asyncio.get_running_loop().call_later(_HEAD_START_S, self.end)

    def end(self) -> None:
        """Let the next one begin (idempotent)."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._starts.release()


class Slot:
    """One reader's slot among the decoders that may work at once, and its share of their memory.

    A reader that waits for memory holds neither slot nor memory, so waiting readers cannot block each other.
    """

    def __init__(
        self, slots: DecoderSlots, memory: ByteBudget, upload: Upload, deadline: Deadline, clock: Clock
    ) -> None:
        self._slots = slots
        self._upload = upload
        self._memory = memory
        self._deadline = deadline
        self._clock = clock
        self._start = slots.head_start()
        self._held: ExitStack | None = None
        self._num_bytes = 0
        self.waited_s = 0.0

    async def take(self, *, is_begun: bool = False) -> None:
        """Wait for a slot, and for a larger upload to have a head start; raises `deadline_exceeded`.

        Args:
            is_begun: whether samples have been decoded before: then it goes on without another head start.
        """
        start = None if is_begun or self._upload.size <= _SHORT_BYTES else self._start
        since_s = self._clock()
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "decode")):
            self._held = await self._slots.acquire(start)
        self.waited_s += self._clock() - since_s

    async def swap_memory(self, num_bytes: int) -> None:
        """Release this reader's memory and wait for another amount, first come, first served.

        The slot is free meanwhile; a head start goes on.

        Raises:
            ServiceError: `deadline_exceeded`.
        """
        if num_bytes == self._num_bytes:
            return
        self._release_memory()
        self._release_slot()
        since_s = self._clock()
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "decode")):
            await self._memory.acquire(num_bytes)
        self._num_bytes = num_bytes
        self.waited_s += self._clock() - since_s
        await self.take()

    def leave(self) -> None:
        """Release the slot (idempotent) and keep the memory."""
        self._start.end()
        self._start = self._slots.head_start()
        self._release_slot()

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

    def _release_slot(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def _release_memory(self) -> None:
        num_bytes, self._num_bytes = self._num_bytes, 0
        if num_bytes:
            self._memory.release(num_bytes)
