"""From an upload to blocks of samples, in one process: what a decoder child runs; a bench may run it without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

import av
import numpy as np
from av.container.input import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.domain.chunk import WINDOW_SAMPLES, SampleBlock
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.media import picture, sound
from service.media.framing import MAX_BLOCK_SAMPLES
from service.media.packets import PacketList, list_packets, make_plan
from service.media.policy import DecodeJob
from service.media.sampling import (
    MissingFrameError,
    Shown,
    StreamChooser,
    TableChooser,
    assign,
    clamp_last_s,
)
from service.media.source import UploadSource

_BLOCK_AGE_S = 0.02
"""A block leaves when its first sample is this old, full or not: half of the 50 ms that a chunk may wait."""
_PROGRESS_S = 0.5
_TIME_DECIMALS = 6
"""Seconds in answers have at most 6 decimals (contract section 3)."""


class Outbox(Protocol):
    """Where the decoded clip goes."""

    def clip(self, clip: ClipInfo) -> None:
        """First, once: what the upload holds, as far as is known."""

    def block(self, block: SampleBlock) -> None:
        """1 to 8 samples, in order. May wait."""

    def progress(self) -> None:
        """A sign of life between blocks."""


@dataclass(frozen=True, slots=True)
class Tracks:
    """Ids of the picture and sound tracks to decode; None: the first of its sort."""

    picture: int | None = None
    sound: int | None = None


def decode_clip(job: DecodeJob, source: UploadSource, outbox: Outbox, *, tracks: Tracks | None = None) -> ClipInfo:
    """Decode an upload into samples.

    Args:
        job: what is wanted.
        source: the bytes; a growing upload whose index comes first is decoded while it grows.
        outbox: takes the clip and its blocks.
        tracks: what to decode.

    Returns:
        The clip with all that is known at its end.

    Raises:
        ServiceError: every documented reason why a file does not decode.
    """
    tracks = tracks or Tracks()
    try:
        with ExitStack() as stack:
            container = stack.enter_context(source.open_container(job.policy))
            stream = picture.open_picture(container, job.policy, track_id=tracks.picture)
            heard = stack.enter_context(source.open_container(job.policy))
            sound_track = sound.SoundTrack(heard, sound.open_sound(heard, track_id=tracks.sound))
            delivery = _Delivery(job, stream, sound_track, outbox)
            if source.is_complete:
                _decode_complete(job, container, stream, delivery)
            else:
                _decode_growing(job, container, stream, delivery)
            source.check()
            return delivery.end()
    except av.FFmpegError as error:
        source.check()
        raise _translate(error) from error
    except MemoryError:
        raise ServiceError("too_costly", "The clip needs more memory to decode than a decoder has.") from None


class _Delivery:
    """Collects samples into blocks and sends them on."""

    def __init__(self, job: DecodeJob, stream: VideoStream, sound_track: sound.SoundTrack, outbox: Outbox) -> None:
        self._stream = stream
        self._sound = sound_track
        self._outbox = outbox
        self._maker = picture.FrameMaker(height=job.frame_height, width=job.frame_width)
        self._clip: ClipInfo | None = None
        self._duration_s: float | None = None
        self._num_expected: int | None = None
        self._num_sent = 0
        self._waiting: list[_Sample] = []
        self._since_s = 0.0
        self._beat_s = time.monotonic()
        self._last_frame: VideoFrame | None = None
        self._last_rgb: NDArray[np.uint8] | None = None

    def know(self, *, duration_s: float, num_samples: int | None = None) -> None:
        """What has been learned about the clip."""
        self._duration_s = round(duration_s, _TIME_DECIMALS)
        self._num_expected = num_samples

    def add(self, time_s: float, shown: Shown[VideoFrame]) -> None:
        """One sample: its frame is made, its window is taken."""
        if self._clip is None:
            self._clip = self._describe(shown.frame)
            self._outbox.clip(self._clip)
        if shown.frame is not self._last_frame or self._last_rgb is None:
            self._last_frame, self._last_rgb = shown.frame, self._maker.make(shown.frame)
        end = sound.window_end(time_s)
        if not self._waiting:
            self._since_s = time.monotonic()
        self._waiting.append(
            _Sample(
                rgb=self._last_rgb,
                start=end - WINDOW_SAMPLES,
                window=self._sound.window(end),
                time_s=round(time_s, _TIME_DECIMALS),
                timestamp_s=round(shown.timestamp_s, _TIME_DECIMALS),
                index=shown.index,
            )
        )
        if len(self._waiting) >= MAX_BLOCK_SAMPLES:
            self.flush()

    def tick(self) -> None:
        """Called at every packet: sends a block that has waited long enough, or a sign of life."""
        now_s = time.monotonic()
        if self._waiting and now_s - self._since_s >= _BLOCK_AGE_S:
            self.flush()
        elif now_s - self._beat_s >= _PROGRESS_S:
            self._beat_s = now_s
            self._outbox.progress()

    def flush(self) -> None:
        """Send what is waiting."""
        if self._waiting:
            self._num_sent += len(self._waiting)
            block = _pack(self._waiting)
            self._waiting = []
            self._outbox.block(block)
            self._beat_s = time.monotonic()

    def end(self) -> ClipInfo:
        """Send the rest; the clip as it turned out."""
        self.flush()
        if self._clip is None:
            raise ServiceError("no_frames", "No frame of the picture track could be decoded; the file may be damaged.")
        return replace(self._clip, duration_s=self._duration_s, num_samples=self._num_sent)

    def _describe(self, frame: VideoFrame) -> ClipInfo:
        width, height = picture.display_size(frame)
        rate = self._stream.average_rate
        return ClipInfo(
            width=width,
            height=height,
            sample_aspect_ratio=picture.sample_aspect_ratio(self._stream, frame),
            duration_s=self._duration_s,
            frame_rate=round(float(rate), _TIME_DECIMALS) if rate else None,
            num_samples=self._num_expected,
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    rgb: NDArray[np.uint8]
    start: int
    window: NDArray[np.int16]
    time_s: float
    timestamp_s: float
    index: int


def _pack(samples: list[_Sample]) -> SampleBlock:
    """Samples as a block. Windows that overlap share their sound; between windows far apart nothing is kept."""
    pieces: list[NDArray[np.int16]] = []
    offsets: list[int] = []
    length, reached = 0, samples[0].start
    for sample in samples:
        fresh = sample.window[max(0, reached - sample.start) :]
        offsets.append(length + len(fresh) - WINDOW_SAMPLES)
        pieces.append(fresh)
        length += len(fresh)
        reached = sample.start + WINDOW_SAMPLES
    return SampleBlock(
        frames=np.stack([sample.rgb for sample in samples]),
        audio=np.concatenate(pieces),
        offsets=np.array(offsets, dtype=np.int64),
        sample_times_s=np.array([sample.time_s for sample in samples]),
        timestamps_s=np.array([sample.timestamp_s for sample in samples]),
        indexes=np.array([sample.index for sample in samples], dtype=np.int64),
    )


def _decode_complete(job: DecodeJob, container: InputContainer, stream: VideoStream, delivery: _Delivery) -> None:
    """Plan (one pass without decoding), then decode what the plan needs; the plain loop where it does not hold."""
    packets = list_packets(container, stream, on_progress=delivery.tick)
    table = packets.table()
    if table is None:
        _rewind(container, stream, packets)
        _decode_growing(job, container, stream, delivery)
        return
    wanted = assign(table, job)
    delivery.know(duration_s=table.end_s, num_samples=len(wanted.times_s))
    index_of = {int(pts): row for row, pts in enumerate(table.pts)}
    num_done = 0
    for plan in (make_plan(packets, table, wanted.rows), None):
        _rewind(container, stream, packets)
        decoder = picture.PictureDecoder(
            container, stream, job.policy, plan=plan, index_of=index_of, on_progress=delivery.tick
        )
        chooser: TableChooser[VideoFrame] = TableChooser(table, wanted, is_strict=plan is not None, num_done=num_done)
        try:
            _run_table(decoder, chooser, delivery)
            return
        except MissingFrameError:
            num_done = chooser.num_done


def _run_table(decoder: picture.PictureDecoder, chooser: TableChooser[VideoFrame], delivery: _Delivery) -> None:
    for shown in decoder.frames():
        for time_s, chosen in chooser.feed(shown):
            delivery.add(time_s, chosen)
        if chooser.is_done:
            return
    for time_s, chosen in chooser.finish():
        delivery.add(time_s, chosen)
    decoder.check_any()


def _decode_growing(job: DecodeJob, container: InputContainer, stream: VideoStream, delivery: _Delivery) -> None:
    """The plain loop: every frame, each chosen when its successor is known."""
    decoder = picture.PictureDecoder(container, stream, job.policy, plan=None, index_of=None, on_progress=delivery.tick)
    assert stream.time_base is not None
    chooser: StreamChooser[VideoFrame] = StreamChooser(job, stream.time_base)
    last_s = 0.0
    for shown in decoder.frames():
        last_s = shown.timestamp_s
        for time_s, chosen in chooser.feed(shown):
            delivery.add(time_s, chosen)
        if chooser.is_done:
            break
    decoder.check_any()
    end_s = last_s + clamp_last_s(decoder.last_duration_s, spacing_s=decoder.mean_spacing_s)
    if not chooser.is_done:
        delivery.know(duration_s=end_s)
    for time_s, chosen in chooser.finish(end_s):
        delivery.add(time_s, chosen)


def _rewind(container: InputContainer, stream: VideoStream, packets: PacketList) -> None:
    """Back to the first packet, with an empty decoder."""
    first = [pts for pts in packets.pts[:1] if pts is not None]
    container.seek(min([0, *first, *(pts for pts in packets.pts if pts is not None)]), stream=stream)
    stream.codec_context.skip_frame = "DEFAULT"


def _translate(error: av.FFmpegError) -> ServiceError:
    if "exceeds specified max pixel count" in str(error.log):
        return ServiceError("picture_too_large", "The coded pictures are larger than the limit; scale the clip down.")
    return ServiceError("broken", "The file is damaged: its index or media cannot be read. Export the clip again.")


def samples_of(job: DecodeJob, source: UploadSource) -> Iterator[SampleBlock]:
    """All blocks of a complete upload, decoded in this process: for benches and trusted files of our own making."""
    outbox = _ListOutbox()
    decode_clip(job, source, outbox)
    yield from outbox.blocks


class _ListOutbox:
    def __init__(self) -> None:
        self.blocks: list[SampleBlock] = []

    def clip(self, clip: ClipInfo) -> None:
        """Not needed here."""

    def block(self, block: SampleBlock) -> None:
        """Keep it."""
        self.blocks.append(block)

    def progress(self) -> None:
        """Not needed here."""
