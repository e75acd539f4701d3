"""Samples on their way out of a decoder: makes frames and audio windows, and collects them into blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.domain.chunk import WINDOW_SAMPLES, SampleBlock
from service.domain.clip import AudioInfo, ClipInfo
from service.domain.errors import ServiceError
from service.domain.result import ANSWER_DECIMALS
from service.media.framing import MAX_BLOCK_SAMPLES
from service.media.policy import DecodeJob
from service.media.sandbox.container.aperture import Aperture
from service.media.sandbox.decoding import picture, sound
from service.media.sandbox.decoding.sampling import Shown

# Age in seconds of its first sample at which a block leaves even if it is not full: half of the 50 ms that a chunk may
# wait.
_BLOCK_AGE_S = 0.02
_PROGRESS_S = 0.5


class Outbox(Protocol):
    """Receiver of the decoded clip."""

    def clip(self, clip: ClipInfo) -> None:
        """Receive the description of the upload, as far as it is known. Called first and once."""

    def block(self, block: SampleBlock) -> None:
        """Receive 1 to 8 samples, in order. May wait."""

    def progress(self) -> None:
        """Receive a report of progress between blocks."""


class SampleWriter:
    """Collects samples into blocks and sends them."""

    def __init__(
        self,
        job: DecodeJob,
        stream: VideoStream,
        sound_track: sound.SoundTrack,
        outbox: Outbox,
        *,
        audio: AudioInfo,
        aperture: Aperture | None,
    ) -> None:
        self._aperture = aperture
        self._stream = stream
        self._audio = audio
        self._sound = sound_track
        self._outbox = outbox
        self._maker = picture.FrameMaker(height=job.frame_height, width=job.frame_width, aperture=aperture)
        self._clip: ClipInfo | None = None
        self._duration_s: float | None = None
        self._num_expected: int | None = None
        self._num_sent = 0
        self._waiting: list[_Sample] = []
        self._since_s = 0.0
        self._beat_s = time.monotonic()
        sound_track.on_progress = self._beat
        self._last_frame: VideoFrame | None = None
        self._last_rgb: NDArray[np.uint8] | None = None

    def set_clip(self, *, duration_s: float, num_samples: int | None = None) -> None:
        """Set what is now known of the clip."""
        self._duration_s = round(duration_s, ANSWER_DECIMALS)
        self._num_expected = num_samples

    def hear(self, times_s: Iterable[float]) -> None:
        """Listen to the sound of earlier samples that are not wanted, for the notes on the sound."""
        for time_s in times_s:
            self._sound.window(sound.window_end(time_s))
            self._beat()

    def add(self, time_s: float, shown: Shown[VideoFrame]) -> None:
        """Add one sample: make its frame and take its audio window."""
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
                time_s=round(time_s, ANSWER_DECIMALS),
                timestamp_s=round(shown.timestamp_s, ANSWER_DECIMALS),
                index=shown.index,
            )
        )
        if not self._num_sent or len(self._waiting) >= MAX_BLOCK_SAMPLES:  # the first sample leaves at once
            self.flush()

    def tick(self) -> None:
        """Send a block that has waited long enough, or report progress. Called at every packet."""
        if self._waiting and time.monotonic() - self._since_s >= _BLOCK_AGE_S:
            self.flush()
        else:
            self._beat()

    def _beat(self) -> None:
        """Report progress where none was reported for a while. Sends no block."""
        now_s = time.monotonic()
        if now_s - self._beat_s >= _PROGRESS_S:
            self._beat_s = now_s
            self._outbox.progress()

    def flush(self) -> None:
        """Send the collected samples."""
        if self._waiting:
            self._num_sent += len(self._waiting)
            block = _pack(self._waiting)
            self._waiting = []
            self._outbox.block(block)
            self._beat_s = time.monotonic()

    def end(self) -> ClipInfo:
        """Send the rest and return the final description of the clip."""
        self.flush()
        if self._clip is None:
            raise ServiceError("no_frames", "No frame of the picture track could be decoded; the file may be damaged.")
        audio = replace(self._audio, notes=self._sound.notes)
        return replace(self._clip, duration_s=self._duration_s, num_samples=self._num_sent, audio=audio)

    def _describe(self, frame: VideoFrame) -> ClipInfo:
        width, height = picture.display_size(frame, self._aperture)
        rate = self._stream.average_rate
        return ClipInfo(
            width=width,
            height=height,
            sample_aspect_ratio=picture.sample_aspect_ratio(self._stream, frame),
            duration_s=self._duration_s,
            frame_rate=round(float(rate), ANSWER_DECIMALS) if rate else None,
            num_samples=self._num_expected,
            audio=self._audio,
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
    """Return samples as a block. Overlapping windows share their sound; sound between distant windows is dropped."""
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
