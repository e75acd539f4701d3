"""The service's side of one overlay: receives the pieces of the new file that a jailed child sends."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from functools import partial

from service.aio.waits import bounded_wait
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.domain.errors import ServiceError
from service.media import framing
from service.media.decoders.child_channel import Channel, ChildGoneError
from service.media.decoders.slot import Slot
from service.media.decoders.zygote_link import ZygoteLink
from service.media.framing import FrameSize, ProtocolError
from service.media.policy import DecodeJob, MediaPolicy
from service.media.upload import Upload

logger = logging.getLogger(__name__)
_NO_FRAMES = FrameSize(0, 0)


class OverlayReader:
    """Draws on one upload. A crash of the child ends the overlay without a retry, because bytes have been sent."""

    def __init__(
        self, link: ZygoteLink, policy: MediaPolicy, upload: Upload, *, slot: Slot, deadline: Deadline, clock: Clock
    ) -> None:
        self._link = link
        self._policy = policy
        self._upload = upload
        self._slot = slot
        self._deadline = deadline
        self._clock = clock
        self._channel: Channel | None = None
        self._has_memory = False
        self._ends_at_s = clock() + policy.max_wall_s

    async def pieces(self, masks: bytes, *, audio_track: int | None) -> AsyncIterator[bytes]:
        """Yield the bytes of the new mp4 in order.

        Args:
            masks: of `framing.pack_masks`.
            audio_track: index of the sound track; None for the enabled default.

        Raises:
            ServiceError: the upload cannot be drawn on; `deadline_exceeded`, `decoder_gone`.
        """
        try:
            channel = await self._start(audio_track)
            await channel.send(framing.MASKS_SIZE.pack(len(masks)) + masks)
            while True:
                kind, body = await self._receive(channel)
                if kind == framing.PIECE and not body:
                    return
                if kind == framing.PIECE:
                    yield bytes(body)
                else:
                    await self._handle(kind, body, channel)
        except (ChildGoneError, ProtocolError):
            raise await self._end_of_child() from None

    def close(self) -> None:
        """Kill the child; the slot is released when the child has ended."""
        channel, self._channel = self._channel, None
        self._slot.end_with(channel)

    async def _start(self, audio_track: int | None) -> Channel:
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "drawing")):
            await self._link.start()  # before it takes a slot, which decoders could use meanwhile
        await self._slot.swap_memory(self._policy.granted_bytes)
        job = DecodeJob(
            fps=None,
            start_s=0.0,
            end_s=None,
            frame_height=0,
            frame_width=0,
            policy=self._policy,
            audio_track=audio_track,
            size_bytes=self._upload.size,
        )
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "drawing")):
            self._channel = await Channel.open(self._link, "overlay", framing.pack_job(job), [self._upload.fd])
        return self._channel

    async def _receive(self, channel: Channel) -> tuple[int, bytearray]:
        wall_left_s = max(0.0, self._ends_at_s - self._clock())
        deadline_left_s = self._deadline.remaining_s(self._clock)

        def overdue() -> ServiceError:
            return deadline_exceeded("drawing") if deadline_left_s <= wall_left_s else _too_costly()

        async with bounded_wait(min(deadline_left_s, wall_left_s, self._policy.progress_s), overdue):
            return await channel.receive(_NO_FRAMES)

    async def _handle(self, kind: int, body: bytearray, channel: Channel) -> None:
        if kind == framing.ERROR:
            error, cause = framing.unpack_error(body)
            if cause:
                logger.warning("unexpected exception while drawing", extra={"cause": cause})
            raise error
        if kind == framing.MEMORY and not self._has_memory:
            self._has_memory = True
            num_bytes = framing.unpack_need(body)
            if num_bytes > self._policy.max_total_bytes:
                raise _too_costly()
            await self._slot.swap_memory(num_bytes)
            await channel.send(framing.MEMORY_GRANTED)
        elif kind != framing.PROGRESS:
            raise ProtocolError(f"kind {kind} from an overlay's child")

    async def _end_of_child(self) -> ServiceError:
        """Return the error for a child that ended by itself."""
        assert self._channel is not None
        channel = self._channel
        self.close()
        if await channel.exit_code() == -signal.SIGXCPU:
            return _too_costly()
        return ServiceError("decoder_gone", "The drawing process was stopped; try again.", retry_after_s=1.0)


def _too_costly() -> ServiceError:
    return ServiceError("too_costly", "The clip costs too much to draw on; make it shorter or smaller.")
