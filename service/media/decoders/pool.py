"""Decoding from the service's side: a pool of jailed children, and a reader of one child's samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.media.decoders.clip_reader import ClipReader, Slot
from service.media.decoders.still_pool import StillPool
from service.media.decoders.zygote_link import ZygoteLink
from service.media.policy import DecodeRequest, MediaPolicy
from service.media.upload import Upload
from service.telemetry.metrics import Metrics

__all__ = ["ClipReader", "DecodeRequest", "DecoderPool", "MediaPolicy"]


class DecoderPool:
    """At most `num_decoders` decodings at once, first come, first served; each in a jailed child of its own."""

    def __init__(self, policy: MediaPolicy, *, num_decoders: int, clock: Clock, metrics: Metrics) -> None:
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._link = ZygoteLink()
        self._slots = asyncio.Semaphore(num_decoders)
        self._stills = StillPool(self._link, policy, num_children=num_decoders)

    @property
    def num_children(self) -> int:
        """Children that run now (clips and stills)."""
        return self._link.num_children

    async def start(self) -> None:
        """Start the zygote and wait until it is warm; before anything else that makes threads.

        Raises:
            ServiceError: `decoder_gone`.
        """
        await self._link.start()

    async def aclose(self) -> None:
        """End every child and the zygote."""
        await self._stills.aclose()
        await self._link.aclose()

    def is_healthy(self) -> bool:
        """Whether children can be forked now."""
        return self._link.is_ready

    def features(self) -> dict[str, object]:
        """What protects and does the decoding: `seccomp` on or off, `ffmpeg` version."""
        return {key: self._link.features.get(key) for key in ("seccomp", "ffmpeg")}

    @asynccontextmanager
    async def open(self, upload: Upload, request: DecodeRequest, *, deadline: Deadline) -> AsyncIterator[ClipReader]:
        """A reader whose clip is known: a slot was free, the upload has passed the checks, its first frame is decoded.

        Leaving the context ends the child.

        Raises:
            ServiceError: why the upload does not decode; `deadline_exceeded`, `decoder_gone`.
        """
        slot = Slot(self._slots, deadline, self._clock)
        await slot.take()
        reader = ClipReader(self._link, self._policy, upload, request, slot=slot, deadline=deadline, clock=self._clock)
        try:
            try:
                await reader.start()
                yield reader
            except ServiceError as error:
                if error is reader.failure:
                    self._metrics.decode_failures_total.labels(code=error.code).inc()
                raise
        finally:
            reader.close()

    async def decode_jpeg(self, data: bytes, *, height: int, width: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """A JPEG squashed to uint8 RGB (height, width, 3), and the picture's own (height, width).

        Raises:
            ServiceError: `broken`, `picture_too_large`, `decoder_gone`.
        """
        return await self._stills.decode_jpeg(data, height=height, width=width)

    async def resize_rgb(self, frame: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
        """An RGB frame, uint8 (H, W, 3), squashed to (height, width, 3) by the same filter.

        Raises:
            ServiceError: `picture_too_large`, `decoder_gone`.
        """
        return await self._stills.resize_rgb(frame, height=height, width=width)
