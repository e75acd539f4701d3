"""Decoding from the service's side: a pool of jailed children, and a reader of one child's samples."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.media import framing
from service.media.child_channel import Channel, ChildGoneError
from service.media.framing import FrameSize, ProtocolError
from service.media.policy import DecodeJob, DecodeRequest, MediaPolicy
from service.media.still_pool import StillPool
from service.media.upload import Upload
from service.media.zygote_link import ZygoteLink
from service.telemetry.metrics import Metrics

__all__ = ["ClipReader", "DecodeRequest", "DecoderPool", "MediaPolicy"]

_logger = logging.getLogger(__name__)
_MAX_DEATHS = 2
_EXIT_NOTICE_S = 10.0
_OUTSIDE_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


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
        try:
            async with asyncio.timeout(deadline.timeout_s(self._clock)):
                await self._slots.acquire()
        except TimeoutError:
            raise _late() from None
        reader = ClipReader(self._link, self._policy, upload, request, deadline=deadline, clock=self._clock)
        try:
            try:
                await reader.start()
                yield reader
            except ServiceError as error:
                if error is reader.failure:
                    self._metrics.decode_failures_total.labels(code=error.code).inc()
                raise
        finally:
            reader.close(then=self._slots.release)

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


class ClipReader:
    """One upload being decoded. A child that dies is replaced once, and what had come already is passed over."""

    def __init__(
        self,
        link: ZygoteLink,
        policy: MediaPolicy,
        upload: Upload,
        request: DecodeRequest,
        *,
        deadline: Deadline,
        clock: Clock,
    ) -> None:
        self._link = link
        self._policy = policy
        self._upload = upload
        self._request = request
        self._deadline = deadline
        self._clock = clock
        self._size = FrameSize(request.frame_height, request.frame_width)
        self._channel: Channel | None = None
        self._clip: ClipInfo | None = None
        self._num_deaths = 0
        self._num_delivered = 0
        self._to_skip = 0
        self._is_at_end = False
        self.failure: ServiceError | None = None

    @property
    def clip(self) -> ClipInfo:
        """The clip as far as it is known; whole once `blocks` has ended."""
        assert self._clip is not None
        return self._clip

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._channel.pid if self._channel is not None else None

    async def start(self) -> None:
        """Fork the child and wait for the clip."""
        with self._noting_failure():
            await self._fork()
            while self._clip is None:
                await self._next()

    async def blocks(self) -> AsyncIterator[SampleBlock]:
        """The samples in order, 1 to 8 a block. While nobody asks for the next, the child waits and no deadline runs.

        Raises:
            ServiceError: why decoding stopped.
        """
        with self._noting_failure():
            while not self._is_at_end:
                block = await self._next()
                if block is not None:
                    self._num_delivered += len(block)
                    yield block

    def close(self, *, then: object) -> None:
        """End the child; `then` is called once it has ended."""
        assert callable(then)
        if self._channel is None:
            then()
        else:
            self._channel.close(then=then)
            self._channel = None

    @contextlib.contextmanager
    def _noting_failure(self):  # type: ignore[no-untyped-def]
        try:
            yield
        except ServiceError as error:
            self.failure = error
            raise

    async def _fork(self) -> None:
        options = self._request.options
        job = DecodeJob(
            fps=options.fps,
            start_s=options.start_s,
            end_s=options.end_s,
            frame_height=self._request.frame_height,
            frame_width=self._request.frame_width,
            policy=self._policy,
            size_bytes=self._upload.size,
            is_complete=self._upload.is_complete,
        )
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                child = await self._link.spawn("clip", framing.pack_job(job), [theirs.fileno(), self._upload.fd])
        except BaseException:
            ours.close()
            raise
        self._channel = Channel(self._link, child, ours)

    async def _next(self) -> SampleBlock | None:
        """Handle one message; the block if it was one."""
        assert self._channel is not None
        try:
            kind, body = await self._receive(self._channel)
            return await self._handle(kind, body)
        except (ChildGoneError, ProtocolError) as error:
            await self._recover(is_protocol_error=isinstance(error, ProtocolError))
            return None

    async def _receive(self, channel: Channel) -> tuple[int, bytearray]:
        """The next message, within the deadline and the time that may pass without a sign of life."""
        remaining_s = self._deadline.remaining_s(self._clock)
        try:
            async with asyncio.timeout(min(remaining_s, self._policy.progress_s)):
                return await channel.receive(self._size)
        except TimeoutError:
            raise _late() from None

    async def _handle(self, kind: int, body: bytearray) -> SampleBlock | None:
        if kind == framing.BLOCK:
            return self._take(framing.unpack_block(body, self._size))
        if kind == framing.NEED:
            await self._wait_for_growth(framing.unpack_need(body))
        elif kind == framing.CLIP:
            self._clip = self._clip or framing.unpack_clip(body)
        elif kind == framing.END:
            self._clip = framing.unpack_clip(body)
            self._is_at_end = True
        elif kind == framing.ERROR:
            error, cause = framing.unpack_error(body)
            if cause:
                _logger.warning("decoder met an unexpected exception", extra={"cause": cause})
            raise error
        return None

    def _take(self, block: SampleBlock) -> SampleBlock | None:
        if self._clip is None:
            raise ProtocolError("block before clip")
        if self._num_delivered + len(block) - self._to_skip > self._policy.max_samples:
            raise ProtocolError("more samples than allowed")
        skip = min(self._to_skip, len(block))
        self._to_skip -= skip
        if skip == len(block):
            return None
        return framing.drop_samples(block, skip) if skip else block

    async def _wait_for_growth(self, num_bytes: int) -> None:
        assert self._channel is not None
        try:
            async with asyncio.timeout(self._deadline.timeout_s(self._clock)):
                size = await self._upload.wait_for(num_bytes)
        except TimeoutError:
            raise ServiceError(
                "deadline_exceeded", "The deadline passed during upload; send a longer timeout."
            ) from None
        await self._channel.send(framing.GROWN.pack(size, self._upload.is_complete))

    async def _recover(self, *, is_protocol_error: bool) -> None:
        """The child is gone: why, and is there another try?"""
        assert self._channel is not None
        channel, self._channel = self._channel, None
        exited = channel.child.exited
        channel.close()
        code = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_NOTICE_S):
                code = await asyncio.shield(exited)
        if code == -signal.SIGXCPU:
            raise ServiceError("too_costly", "The clip costs more CPU time to decode than its size and length allow.")
        is_outside = not is_protocol_error and (code is None or (code < 0 and -code in _OUTSIDE_SIGNALS))
        self._num_deaths += 1
        _logger.warning("decoder child died", extra={"exit_code": code, "deaths": self._num_deaths})
        if self._num_deaths >= _MAX_DEATHS:
            if is_outside:
                raise ServiceError(
                    "decoder_gone", "The decoder was stopped from outside; try again.", retry_after_s=1.0
                )
            raise ServiceError("broken", "The file ended its decoder twice; export the clip again.")
        self._to_skip = self._num_delivered
        await self._fork()


def _late() -> ServiceError:
    return ServiceError("deadline_exceeded", "The deadline passed during decode; send a longer timeout.")
