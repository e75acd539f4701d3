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

    Decoders begin first come, first served. Of larger uploads, one per core begins at a time: when it has ended, or
    `_HEAD_START_S` later, the next one may. So clips of some seconds are decoded one after another, while a long one
    shares the cores with those that came later. Short uploads do not wait for that.

    Args:
        num_slots: decoders at once.
        cores: learns of each decoder that has a slot or waits for one.
    """

    def __init__(self, num_slots: int, cores: CoreUse) -> None:
        self._free = asyncio.Semaphore(num_slots)
        self._starts = asyncio.Semaphore(cores.num_cores or num_slots)
        self._cores = cores

    async def acquire(self, num_bytes: int) -> ExitStack:
        """Wait for a slot and take it. Closing what is returned gives it back.

        Args:
            num_bytes: of the upload, as far as it has arrived.
        """
        with ExitStack() as held:
            self._cores.begin()
            held.callback(self._cores.end)
            if num_bytes > _SHORT_BYTES:
                await self._starts.acquire()
                held.callback(_HeadStart(self._starts).end)
            await self._free.acquire()
            held.callback(self._free.release)
            return held.pop_all()


class _HeadStart:
    """Of a decoder that begins: lets the next one begin after `_HEAD_START_S`, or at its end if that comes first."""

    def __init__(self, starts: asyncio.Semaphore) -> None:
        self._starts = starts
        self._timer = asyncio.get_running_loop().call_later(_HEAD_START_S, self.end)
        self._has_ended = False

    def end(self) -> None:
        """Let the next decoder begin (idempotent)."""
        if not self._has_ended:
            self._has_ended = True
            self._timer.cancel()
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
        self._held: ExitStack | None = None
        self._num_bytes = 0
        self.waited_s = 0.0

    async def take(self) -> None:
        """Wait for a slot, first come, first served; raises `deadline_exceeded`."""
        since_s = self._clock()
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "decode")):
            self._held = await self._slots.acquire(self._upload.size)
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
        held, self._held = self._held, None
        if held is not None:
            held.close()

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
