"""Live streams: frames and sound in any interleaving become masks, frame by frame.

A stream has three tasks. The reader receives input: sound goes to the time line, frames go into a short queue that
drops its oldest frame when it is full. The starter takes the oldest frame, decodes it, waits briefly for its sound, and
sends one sample to the segmenter, where the samples of all streams and clips share batches. The answerer sends the
masks, in order. The next frame starts when the one before it is answered, or sooner while the segmenter is idle.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.aio.tasks import first_error
from service.aio.waits import bounded_wait, ends_within
from service.core.live_frames import FrameWork, LivePicture, LivePolicy, QueuedFrame
from service.core.usage import KeyUsage
from service.domain.chunk import SegmentedChunk
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveFrame, LiveFrameError, LiveInput, LiveMasks, LiveOptions, SoundPiece
from service.domain.request import RequestContext
from service.domain.result import ANSWER_DECIMALS, FrameMasks, SoundEvent
from service.media.decoders.pool import DecoderPool
from service.media.live_sound import MAX_TIMESTAMP_S, LiveSound
from service.ports import Segmenter
from service.postprocess.events import EventTracker
from service.postprocess.instances import InstanceTracker

# Sends an event to the transport; waits while the client does not read.
Emit = Callable[[LiveEvent], Awaitable[None]]

# Errors that end the stream, because no later frame could be answered either, as does `backend_down` where the device
# of this process was lost. Other errors concern one frame.
_ENDS_STREAM = frozenset({"draining"})
_DRAINING_RETRY_S = 1.0
# Frames of one stream that are worked on at once: as many as the calls that a CPU makes at the same time.
_MAX_STARTED = 4
# Errors after which nobody reads.
_CLIENT_IS_LOST = frozenset({"client_gone", "slow_reader"})


class LiveStreams:
    """All live streams of the process. Each call of `run` is one stream."""

    def __init__(
        self,
        *,
        segmenter: Segmenter,
        decoders: DecoderPool,
        policy: LivePolicy,
        clock: Clock,
        usage: KeyUsage | None = None,
    ) -> None:
        self._usage = usage
        self._segmenter = segmenter
        self._decoders = decoders
        self._policy = policy
        self._clock = clock
        self._open: set[_Stream] = set()
        self._is_draining = False

    async def run(
        self, inputs: AsyncIterator[LiveInput], *, options: LiveOptions, emit: Emit, context: RequestContext
    ) -> None:
        """Answer one stream until its input ends. The first event is the ModelInfo.

        Raises:
            ServiceError: `warming_up` or `backend_down` (no model, device lost), `bad_option`, `draining`,
                `slow_upload` (no input for `idle_s`), `too_many_requests`, any error of `inputs`.
        """
        model = await self._segmenter.describe()
        applied = options.resolve(model)
        with self._decoders.open_stills() as pictures:
            work = FrameWork(
                self._segmenter, pictures, self._policy, model, applied, context, self._clock, usage=self._usage
            )
            events = EventTracker(options, offset_lag_s=model.offset_lag_s, is_live=True)
            stream = _Stream(work, events, options=options, emit=emit, idle_s=self._policy.idle_s, clock=self._clock)
            if self._is_draining:
                stream.end_after_started_frames()
            self._open.add(stream)
            try:
                await emit(model)
                await stream.run(inputs)
            finally:
                self._open.discard(stream)

    def start_draining(self) -> None:
        """End every stream with `draining` after the frames that it has started."""
        self._is_draining = True
        for stream in self._open:
            stream.end_after_started_frames()


@dataclass(frozen=True, slots=True)
class _StartedFrame:
    """A frame on its way, without its bytes: the task that segments it, or why there is none.

    `picture` is kept where objects are followed in it.
    """

    frame: QueuedFrame
    segmenting: asyncio.Task[SegmentedChunk | ServiceError] | ServiceError
    picture: LivePicture | None = None


class _Stream:
    """The queue, the sound and the three tasks of one stream."""

    def __init__(
        self,
        work: FrameWork,
        events: EventTracker,
        *,
        options: LiveOptions,
        emit: Emit,
        idle_s: float,
        clock: Clock,
    ) -> None:
        self._work = work
        self._options = options
        self._transport_emit = emit
        self._idle_s = idle_s
        self._clock = clock
        self._sound = LiveSound()
        self._events = events
        self._instances = InstanceTracker() if options.instances else None
        self._line: deque[QueuedFrame] = deque()
        self._num_frames = 0
        self._num_dropped = 0
        self._last_timestamp_s = -math.inf
        self._is_over = False
        self._is_draining = False
        self._started: asyncio.Queue[_StartedFrame | None] = asyncio.Queue()  # at most _MAX_STARTED
        self._num_started = 0  # frames that were started and are not answered yet
        self._is_sending = False  # an answer, for which the client may keep us waiting
        self._changed = asyncio.Event()
        self._emitting = asyncio.Lock()

    async def run(self, inputs: AsyncIterator[LiveInput]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(inputs))
                group.create_task(self._start(group))
                group.create_task(self._answer())
        except ExceptionGroup as failures:
            error = first_error(failures, ServiceError)
            await self._emit_last_events(error)
            raise error from None

    def end_after_started_frames(self) -> None:
        self._is_draining = True
        self._changed.set()

    async def _read(self, inputs: AsyncIterator[LiveInput]) -> None:
        while (received := await self._receive(inputs)) is not None:
            try:
                if isinstance(received, SoundPiece):
                    self._sound.add(received)
                else:
                    self._take(received)
            except ServiceError as error:
                await self._emit(LiveFrameError(received.timestamp_s, error.code, error.detail))
            self._changed.set()
        self._is_over = True
        self._changed.set()

    async def _receive(self, inputs: AsyncIterator[LiveInput]) -> LiveInput | None:
        """Return the next input; None at the end."""
        async with bounded_wait(self._idle_s, self._idle_error):
            return await anext(inputs, None)

    def _idle_error(self) -> ServiceError:
        detail = f"Neither a frame nor sound came for {self._idle_s:g} s; open a new stream when there is more to send."
        return ServiceError("slow_upload", detail)

    def _take(self, frame: LiveFrame) -> None:
        """Queue a frame. A full queue drops its oldest frame."""
        if not (math.isfinite(frame.timestamp_s) and abs(frame.timestamp_s) <= MAX_TIMESTAMP_S):
            raise ServiceError("malformed_body", "LiveFrame.timestamp_s: give a finite number of seconds.")
        if frame.timestamp_s <= self._last_timestamp_s:
            last = self._last_timestamp_s
            detail = f"LiveFrame.timestamp_s: {frame.timestamp_s:g} does not rise over the last frame's, {last:g}."
            raise ServiceError("malformed_body", detail)
        self._last_timestamp_s = frame.timestamp_s
        self._line.append(QueuedFrame(frame, self._num_frames, self._clock()))
        self._num_frames += 1
        if len(self._line) > self._options.max_waiting_frames:
            self._line.popleft()
            self._num_dropped += 1

    async def _start(self, group: asyncio.TaskGroup) -> None:
        """Start frames, and stop when the stream is over or drains."""
        while (waiting := await self._next()) is not None:
            self._num_started += 1
            self._started.put_nowait(await self._started_frame(waiting, group))
        self._started.put_nowait(None)

    async def _started_frame(self, waiting: QueuedFrame, group: asyncio.TaskGroup) -> _StartedFrame:
        decoded = replace(waiting, frame=replace(waiting.frame, data=b""))
        try:
            picture = await self._work.picture(waiting.frame)
        except ServiceError as error:
            return _StartedFrame(decoded, error)
        await self._wait_for_sound(decoded)
        window = self._sound.window(decoded.frame.timestamp_s)
        segmenting = group.create_task(self._segment(picture, window, decoded))
        await asyncio.sleep(0)  # from now on the segmenter knows of it
        return _StartedFrame(decoded, segmenting, None if self._instances is None else picture)

    async def _segment(
        self, picture: LivePicture, window: NDArray[np.int16], waiting: QueuedFrame
    ) -> SegmentedChunk | ServiceError:
        """Return the error of one frame in place of raising it, which would end the stream's other tasks."""
        try:
            return await self._work.segment(picture, window, waiting)
        except ServiceError as error:
            return error

    async def _answer(self) -> None:
        """Answer the frames that were started, in order."""
        while (started := await self._started.get()) is not None:
            masks = await self._masks(started)
            self._is_sending = True
            if isinstance(masks, FrameMasks):
                await self._emit_masks(masks, started.frame)
                await self._emit_events(self._events.add(masks))
            elif masks.code in _ENDS_STREAM or (masks.code == "backend_down" and not self._work.is_device_healthy()):
                raise masks
            else:
                await self._emit(LiveFrameError(started.frame.frame.timestamp_s, masks.code, masks.detail))
            self._is_sending = False
            self._num_started -= 1
            self._changed.set()
        if self._is_draining:
            detail = "This server is shutting down; open the stream again, another server will answer."
            raise ServiceError("draining", detail, retry_after_s=_DRAINING_RETRY_S)
        await self._emit_events(self._events.finish())

    async def _emit_last_events(self, error: Exception) -> None:
        """Emit the events that an error closes by ending the stream, unless the client has gone."""
        if not isinstance(error, ServiceError) or error.code in _CLIENT_IS_LOST:
            return
        with suppress(ServiceError):  # the client has disconnected: the first error tells more
            await self._emit_events(self._events.finish())

    async def _emit_events(self, events: list[SoundEvent]) -> None:
        for event in events:
            await self._emit(event)

    async def _next(self) -> QueuedFrame | None:
        """Return the oldest queued frame when it may start; None when the stream is over or drains."""
        while not self._is_draining:
            if self._line and self._may_start():
                return self._line.popleft()
            if self._is_over and not self._line:
                return None
            await self._next_change()
        return None

    def _may_start(self) -> bool:
        """Whether the next frame may start: not while the client does not read, since its answer would grow old."""
        if not self._num_started:
            return True
        return self._num_started < _MAX_STARTED and not self._is_sending and self._work.is_segmenter_idle()

    async def _masks(self, started: _StartedFrame) -> FrameMasks | ServiceError:
        if isinstance(started.segmenting, ServiceError):
            return started.segmenting
        segmented = await started.segmenting
        if isinstance(segmented, ServiceError):
            return segmented
        if self._instances is None or started.picture is None:
            return segmented.frames[0]
        frame = started.picture.frame
        return await asyncio.to_thread(self._instances.add, segmented.frames[0], frame, segmented.maps_of(0))

    async def _wait_for_sound(self, waiting: QueuedFrame) -> None:
        """Wait until the frame's sound has arrived, the wait is over, or no more sound can come."""
        give_up_at_s = waiting.received_at_s + self._options.max_audio_wait_s
        while not (self._is_over or self._is_draining or self._sound.has_heard(waiting.frame.timestamp_s)):
            left_s = give_up_at_s - self._clock()
            if left_s <= 0 or not await ends_within(left_s, self._next_change()):
                return

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _emit_masks(self, masks: FrameMasks, waiting: QueuedFrame) -> None:
        async with self._emitting:
            latency_s = round(self._clock() - waiting.received_at_s, ANSWER_DECIMALS)
            await self._transport_emit(LiveMasks(masks, latency_s, self._num_dropped))

    async def _emit(self, event: LiveEvent) -> None:
        async with self._emitting:  # a transport sends one message at a time
            await self._transport_emit(event)
