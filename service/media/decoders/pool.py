"""The decoder pool: uploads and pictures to samples, each decoded in a jailed child process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from service.aio.byte_budget import ByteBudget
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.media import framing
from service.media.core_use import CoreUse
from service.media.decoders.clip_reader import ClipReader, Lend
from service.media.decoders.overlay_reader import OverlayReader
from service.media.decoders.slot import DecoderSlots, Slot
from service.media.decoders.stills import StillDecoder, StillDecoders
from service.media.decoders.zygote_link import ZygoteLink
from service.media.policy import DecodeRequest, MediaPolicy
from service.media.upload import Upload
from service.telemetry.metrics import Metrics

# Most bytes of the packed masks of an overlay. Its child uses a few times as much.
_MAX_MASK_BYTES = 64 * 1024**2
__all__ = ["ClipReader", "DecodeRequest", "DecoderPool", "Lend", "MediaPolicy"]


class DecoderPool:
    """Decodes uploads and single pictures in jailed children.

    Args:
        policy: limits of one upload.
        num_decoders: most uploads that are decoded at once (see `Slot`); also most pictures at once.
        job_policy: limits of the upload of a job; None for those of any upload.
        max_live_streams: most streams with a still-picture decoder.
        clock: monotonic seconds.
        metrics: counts failures by code.
        cores: learns of each upload that is decoded or drawn on, or waits for that.
    """

    def __init__(
        self,
        policy: MediaPolicy,
        *,
        num_decoders: int,
        clock: Clock,
        metrics: Metrics,
        job_policy: MediaPolicy | None = None,
        max_live_streams: int = 32,
        cores: CoreUse | None = None,
    ) -> None:
        self._policy = policy
        self._job_policy = job_policy or policy
        self._clock = clock
        self._metrics = metrics
        self._link = ZygoteLink("decoder_zygote")
        self._overlay_link = ZygoteLink("overlay_zygote")  # started by the first overlay
        self._slots = DecoderSlots(num_decoders, cores or CoreUse())
        self._memory = ByteBudget(policy.max_total_bytes)
        self._stills = StillDecoders(self._link, policy, max_streams=max_live_streams, num_decoders=num_decoders)

    @property
    def num_children(self) -> int:
        """Return the number of running children (clips, stills and overlays)."""
        return self._link.num_children + self._overlay_link.num_children

    @property
    def held_bytes(self) -> int:
        """Return the estimated memory of the clips that are being decoded."""
        return self._memory.held_bytes

    async def start(self) -> None:
        """Start the decoders' zygote and wait until it is warm. Call this before creating threads.

        Raises:
            ServiceError: `decoder_gone`.
        """
        await self._link.start()

    async def aclose(self) -> None:
        """End every child and the zygotes."""
        self._stills.close()
        await self._overlay_link.aclose()
        await self._link.aclose()

    def is_healthy(self) -> bool:
        """Return whether children can be forked now."""
        return self._link.is_ready

    def features(self) -> dict[str, object]:
        """Return the walls of the sandbox, each on or off, and FFmpeg's version."""
        return {key: value for key, value in self._link.features.items() if key != "num_threads"}

    @asynccontextmanager
    async def open(
        self, upload: Upload, request: DecodeRequest, *, deadline: Deadline, lend: Lend = nullcontext
    ) -> AsyncIterator[ClipReader]:
        """Open a reader of an upload that passed the checks and whose first frame was decoded.

        Waits for memory and a slot first. Leaving the context kills the child. While the upload has to
        grow, the slot is free and `lend` is entered.

        Raises:
            ServiceError: the upload cannot be decoded; `deadline_exceeded`, `decoder_gone`.
        """
        policy = self._job_policy if request.is_job else self._policy
        slot = Slot(self._slots, self._memory, upload, deadline, self._clock)
        reader = ClipReader(
            self._link, policy, upload, request, slot=slot, deadline=deadline, clock=self._clock, lend=lend
        )
        try:
            await slot.swap_memory(policy.granted_bytes)
            try:
                await reader.start()
                yield reader
            except ServiceError as error:
                if error is reader.failure:
                    self._metrics.decode_failures_total.labels(code=error.code).inc()
                raise
        finally:
            reader.close()

    async def draw(
        self, upload: Upload, frames: Iterable[FrameMasks], *, audio_track: int | None, deadline: Deadline
    ) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of an mp4 that shows a complete upload with its masks, with the sound kept.

        Waits for memory and a slot first. Closing the generator kills the child.

        Args:
            upload: the clip; its bytes are read in the child only.
            frames: of its answer, in order of time.
            audio_track: index of the answer's sound track; None for the enabled default.
            deadline: of the request.

        Raises:
            ServiceError: why the upload cannot be drawn on; `deadline_exceeded`, `decoder_gone`, `answer_too_large`.
        """
        masks = await asyncio.to_thread(framing.pack_masks, frames)
        if len(masks) > _MAX_MASK_BYTES:
            detail = f"The masks take over {_MAX_MASK_BYTES} bytes; ask for fewer samples or size=model."
            raise ServiceError("answer_too_large", detail)
        slot = Slot(self._slots, self._memory, upload, deadline, self._clock)
        reader = OverlayReader(
            self._overlay_link, self._policy, upload, slot=slot, deadline=deadline, clock=self._clock
        )
        try:
            async for piece in reader.pieces(masks, audio_track=audio_track):
                yield piece
        finally:
            reader.close()

    def open_stills(self) -> AbstractContextManager[StillDecoder]:
        """Open the still-picture decoder of one live stream; leaving the context kills its child.

        Raises:
            ServiceError: `too_many_requests`, the streams of all `max_live_streams` are open.
        """
        return self._stills.open()
