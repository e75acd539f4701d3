"""The work on one frame of a live stream: bytes to picture, picture and audio window to masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.usage import KeyUsage
from service.domain.chunk import Chunk, MaskPolicy, SampleBlock, SegmentedChunk
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame
from service.domain.options import AppliedOptions
from service.domain.request import RequestContext
from service.domain.result import ANSWER_DECIMALS, ModelInfo
from service.media.decoders.stills import StillDecoder
from service.ports import Segmenter


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """Limits of one stream.

    Attributes:
        max_pixels: pixels of a raw picture.
        frame_timeout_s: deadline of a frame, from its arrival.
        idle_s: longest time without input. An idle client occupies a scarce slot. Same limit as for a stalled reader.
    """

    max_pixels: int
    frame_timeout_s: float = 10.0
    idle_s: float = 30.0


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """A queued frame; `index` counts the accepted frames by arrival."""

    frame: LiveFrame
    index: int
    received_at_s: float


@dataclass(frozen=True, slots=True)
class LivePicture:
    """uint8 (h, w, 3) RGB at the model's size, and the size (height, width) that the client sent."""

    frame: NDArray[np.uint8]
    source_size: tuple[int, int]


class FrameWork:
    """The steps of one frame: bytes to picture, picture and audio window to masks."""

    def __init__(
        self,
        segmenter: Segmenter,
        pictures: StillDecoder,
        policy: LivePolicy,
        model: ModelInfo,
        applied: AppliedOptions,
        context: RequestContext,
        clock: Clock,
        *,
        usage: KeyUsage | None,
    ) -> None:
        self._usage = usage
        self._segmenter = segmenter
        self._pictures = pictures
        self._policy = policy
        self._model = model
        self._applied = applied
        self._context = context
        self._clock = clock

    def is_device_healthy(self) -> bool:
        """Return whether this process's device answers; True where workers have the devices."""
        return self._segmenter.is_healthy()

    def is_segmenter_idle(self) -> bool:
        """Return whether a frame sent now would be worked on at once."""
        return self._segmenter.is_idle()

    async def picture(self, frame: LiveFrame) -> LivePicture:
        """Decode and scale; raises `broken`, `malformed_body`, `picture_too_large`, `too_many_requests`."""
        self._check(frame)
        if self._usage is not None:
            self._usage.check(self._context.caller)
            self._usage.add_samples(self._context.caller, 1)
        height, width = self._model.input_height, self._model.input_width
        with self._segmenter.expect(self._context.request_id):
            if frame.format == "jpeg":
                return LivePicture(*await self._pictures.decode_jpeg(frame.data, height=height, width=width))
            raw = np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 3)
            resized = await self._pictures.resize_rgb(raw, height=height, width=width)
            return LivePicture(resized, (frame.height, frame.width))

    async def segment(self, picture: LivePicture, window: NDArray[np.int16], waiting: QueuedFrame) -> SegmentedChunk:
        """Segment one sample; `window` is int16 (15600,)."""
        timestamp_s = round(waiting.frame.timestamp_s, ANSWER_DECIMALS)
        sample = SampleBlock(
            frames=picture.frame[None],  # (1, h, w, 3)
            audio=window,
            offsets=np.zeros(1, dtype=np.int64),
            sample_times_s=np.array([timestamp_s]),
            timestamps_s=np.array([timestamp_s]),
            indexes=np.array([waiting.index], dtype=np.int64),
        )
        chunk = Chunk(
            request_id=self._context.request_id,
            chunk_no=waiting.index,
            samples=sample,
            masks=MaskPolicy.of(self._applied, source_size=picture.source_size, model=self._model),
            deadline=Deadline(min(self._context.deadline.at_s, waiting.received_at_s + self._policy.frame_timeout_s)),
            checkpoint=self._model.checkpoint,
            is_live=True,
        )
        return await self._segmenter.segment(chunk)

    def _check(self, frame: LiveFrame) -> None:
        if frame.format == "unknown":
            raise ServiceError("malformed_body", "LiveFrame.format: give PIXEL_FORMAT_JPEG or PIXEL_FORMAT_RGB24.")
        if frame.format == "jpeg":
            return
        if frame.width < 1 or frame.height < 1:
            raise ServiceError("malformed_body", "LiveFrame.width and height: RGB24 needs both, over 0.")
        if frame.width * frame.height > self._policy.max_pixels:
            limit = self._policy.max_pixels
            raise ServiceError("picture_too_large", f"The frame has {frame.width} x {frame.height} pixels of {limit}.")
        wanted = 3 * frame.width * frame.height
        if len(frame.data) != wanted:
            detail = f"LiveFrame.data: {len(frame.data)} bytes; RGB24 at {frame.width} x {frame.height} needs {wanted}."
            raise ServiceError("malformed_body", detail)
