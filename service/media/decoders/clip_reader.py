"""The service's side of decoding one upload: turns the messages of a child into samples or an error."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from service.aio.waits import bounded_wait
from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.domain.errors import ServiceError
from service.media import framing
from service.media.decoders.child_channel import Channel, ChildGoneError
from service.media.decoders.slot import Slot
from service.media.decoders.zygote_link import ZygoteLink
from service.media.framing import FrameSize, ProtocolError
from service.media.policy import DecodeJob, DecodeRequest, MediaPolicy
from service.media.upload import Upload

logger = logging.getLogger(__name__)
_MAX_DEATHS = 2
# A child reports progress every half second. Reports may collect in its socket while nobody reads.
_MAX_PROGRESS_BURST, _MAX_PROGRESS_PER_S = 1000, 4.0
# Context in which the caller's resources are lent to others while the upload has to grow.
Lend = Callable[[], AbstractAsyncContextManager[None]]
# Signals that a decoder does not raise itself: another process ended the child.
_OUTSIDE_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


class ClipReader:
    """Decodes one upload. A child that crashes is replaced once; samples that were already delivered are skipped."""

    def __init__(
        self,
        link: ZygoteLink,
        policy: MediaPolicy,
        upload: Upload,
        request: DecodeRequest,
        *,
        slot: Slot,
        deadline: Deadline,
        clock: Clock,
        lend: Lend = nullcontext,
    ) -> None:
        self._lend = lend
        self._slot = slot
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
        self._active_s = 0.0
        self._num_progress = 0
        self._has_described = False
        self._has_memory = False
        self._reported = (0, False)
        self.failure: ServiceError | None = None

    @property
    def waited_s(self) -> float:
        """Return the seconds spent waiting for a slot."""
        return self._slot.waited_s

    @property
    def clip(self) -> ClipInfo:
        """Return the clip as far as it is known; it is complete once `blocks` has ended."""
        assert self._clip is not None
        return self._clip

    @property
    def pid(self) -> int | None:
        """Return the child's process id."""
        return self._channel.pid if self._channel is not None else None

    async def start(self) -> None:
        """Start the child and wait until it has described the clip."""
        with self._noting_failure():
            await self._fork()
            while self._clip is None:
                await self._next()

    async def blocks(self) -> AsyncIterator[SampleBlock]:
        """Yield the samples in order, 1 to 8 per block.

        While the caller does not read, the child waits and no time limit runs.

        Raises:
            ServiceError: decoding failed.
        """
        with self._noting_failure():
            while not self._is_at_end:
                block = await self._next()
                if block is not None:
                    self._num_delivered += len(block)
                    yield block

    def close(self) -> None:
        """Kill the child; the slot is released when the child has ended."""
        channel, self._channel = self._channel, None
        self._slot.end_with(channel)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except ServiceError as error:
            self.failure = error
            raise

    async def _fork(self) -> None:
        options = self._request.options
        job = DecodeJob(
            fps=None if options.fps == "native" else options.fps,
            start_s=options.start_s,
            end_s=options.end_s,
            frame_height=self._request.frame_height,
            frame_width=self._request.frame_width,
            policy=self._policy,
            audio_track=options.audio_track,
            size_bytes=self._upload.size,
            is_complete=self._upload.is_complete,
            heard_from_s=self._request.heard_from_s,
        )
        self._reported = (job.size_bytes, job.is_complete)
        self._num_progress = 0
        self._has_described = False
        self._has_memory = False
        async with bounded_wait(self._deadline.timeout_s(self._clock), partial(deadline_exceeded, "decode")):
            self._channel = await Channel.open(self._link, "clip", framing.pack_job(job), [self._upload.fd])

    async def _next(self) -> SampleBlock | None:
        """Handle one message and return its block, if it has one."""
        assert self._channel is not None
        since_s = self._clock()
        try:
            kind, body = await self._receive(self._channel)
            self._active_s += self._clock() - since_s
            return await self._handle(kind, body)
        except (ChildGoneError, ProtocolError) as error:
            await self._recover(error)
            return None

    async def _receive(self, channel: Channel) -> tuple[int, bytearray]:
        """Return the next message.

        Raises:
            ServiceError: `deadline_exceeded` at the request's deadline or without a message for `progress_s`;
                `too_costly` if the child has been active for `max_wall_s` in total.
        """
        policy = self._policy
        active_left_s = max(0.0, policy.max_wall_s - self._active_s)
        deadline_left_s = self._deadline.remaining_s(self._clock)

        def overdue() -> ServiceError:
            if deadline_left_s <= min(active_left_s, policy.progress_s):
                return deadline_exceeded("decode")
            if active_left_s <= policy.progress_s:
                return ServiceError("too_costly", f"The clip took more than {policy.max_wall_s:g} s to decode.")
            detail = f"The decoder made no progress for {policy.progress_s:g} s; send the clip again."
            return ServiceError("deadline_exceeded", detail)

        async with bounded_wait(min(deadline_left_s, active_left_s, policy.progress_s), overdue):
            return await channel.receive(self._size)

    async def _handle(self, kind: int, body: bytearray) -> SampleBlock | None:
        if kind == framing.BLOCK:
            return self._take(framing.unpack_block(body, self._size))
        if kind == framing.PROGRESS:
            self._count_progress()
        elif kind == framing.NEED:
            await self._wait_for_growth(framing.unpack_need(body))
        elif kind == framing.MEMORY:
            await self._grant_memory(framing.unpack_need(body))
        elif kind == framing.CLIP:
            self._describe(framing.unpack_clip(body))
        elif kind == framing.END:
            self._clip = framing.unpack_clip(body)
            self._is_at_end = True
        elif kind == framing.ERROR:
            error, cause = framing.unpack_error(body)
            if cause:
                logger.warning("unexpected exception in a decoder", extra={"cause": cause})
            raise error
        else:
            raise ProtocolError(f"kind {kind} from a clip's child")
        return None

    def _count_progress(self) -> None:
        self._num_progress += 1
        if self._num_progress > _MAX_PROGRESS_BURST + _MAX_PROGRESS_PER_S * self._active_s:
            raise ProtocolError("more signs of progress than a child sends")

    def _describe(self, clip: ClipInfo) -> None:
        if self._has_described:
            raise ProtocolError("clip twice")
        self._has_described = True
        self._clip = self._clip or clip

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
        """Answer the child when the upload has grown. Meanwhile the child is idle and its slot is free for another."""
        assert self._channel is not None
        reported_bytes, was_complete = self._reported
        if was_complete or num_bytes <= reported_bytes:
            raise ProtocolError("need of bytes that are there")
        if self._upload.size < num_bytes and not self._upload.is_complete:
            self._slot.leave()
            limit_s = self._deadline.timeout_s(self._clock)
            async with bounded_wait(limit_s, partial(deadline_exceeded, "upload")), self._lend():
                await self._upload.wait_for(num_bytes)
            await self._slot.take(is_begun=self._clip is not None)
        self._reported = (self._upload.size, self._upload.is_complete)
        await self._channel.send(framing.GROWN.pack(*self._reported))

    async def _grant_memory(self, num_bytes: int) -> None:
        """Answer the child when it may use this much memory."""
        assert self._channel is not None
        if self._has_memory:
            raise ProtocolError("memory twice")
        self._has_memory = True
        if num_bytes > self._policy.max_total_bytes:
            raise ServiceError(
                "too_costly",
                f"The clip needs about {num_bytes >> 20} MiB of memory to decode; "
                f"the limit is {self._policy.max_total_bytes >> 20} MiB. Scale it down, or use fewer reference frames.",
            )
        await self._slot.swap_memory(num_bytes)
        await self._channel.send(framing.MEMORY_GRANTED)

    async def _recover(self, error: ChildGoneError | ProtocolError) -> None:
        """Start a second child after the first one ended, or raise the error for the caller if a retry cannot help."""
        assert self._channel is not None
        channel, self._channel = self._channel, None
        channel.close()
        code = await channel.exit_code()
        if code == -signal.SIGXCPU:
            raise ServiceError("too_costly", "The clip costs more CPU time to decode than its size and length allow.")
        is_outside = isinstance(error, ChildGoneError) and (code is None or (code < 0 and -code in _OUTSIDE_SIGNALS))
        self._num_deaths += 1
        logger.warning(
            "decoder child died", extra={"exit_code": code, "deaths": self._num_deaths, "violation": str(error)}
        )
        if self._num_deaths >= _MAX_DEATHS:
            if is_outside:
                raise ServiceError(
                    "decoder_gone", "The decoder was stopped from outside; try again.", retry_after_s=1.0
                )
            raise ServiceError("broken", "The file ended its decoder twice; export the clip again.")
        self._to_skip = self._num_delivered
        await self._slot.swap_memory(self._policy.granted_bytes)
        await self._fork()
