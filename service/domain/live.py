"""Values of a live stream: what its client sends and what it gets back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from service.domain.errors import ServiceError
from service.domain.options import AppliedOptions, MaskSize, SegmentOptions
from service.domain.result import FrameMasks, ModelInfo

PixelFormat = Literal["jpeg", "rgb24", "unknown"]

MAX_AUDIO_WAIT_S = 5.0
"""Longest wait for sound that a client may ask for; over it the answer is no longer live."""
MAX_WAITING_FRAMES = 64
"""Most frames of one stream that may wait (at 4 MiB a message: 256 MiB)."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """Options of a live stream; None means the model's default.

    `max_audio_wait_s`: seconds from a frame's arrival that its sound is waited for; what is missing then is silence.
    `max_waiting_frames`: one frame more drops the oldest. Construction validates and raises ServiceError `bad_option`.
    """

    threshold: float | None = None
    size: MaskSize = "source"
    labels: tuple[str, ...] | None = None
    max_audio_wait_s: float = 0.1
    max_waiting_frames: int = 4

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_audio_wait_s) and 0 <= self.max_audio_wait_s <= MAX_AUDIO_WAIT_S):
            raise ServiceError("bad_option", f"max_audio_wait_s: give 0 to {MAX_AUDIO_WAIT_S:g} seconds.")
        if not 1 <= self.max_waiting_frames <= MAX_WAITING_FRAMES:
            raise ServiceError("bad_option", f"max_waiting_frames: give 1 to {MAX_WAITING_FRAMES}.")
        SegmentOptions(threshold=self.threshold, size=self.size, labels=self.labels)

    def resolve(self, model: ModelInfo) -> AppliedOptions:
        """What applies to every frame; raises `bad_option` for labels the model does not know."""
        return SegmentOptions(threshold=self.threshold, size=self.size, labels=self.labels).resolve(model)


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """One encoded (jpeg) or raw (rgb24, H * W * 3 bytes) picture; width and height may be 0 for jpeg.

    A frame of unknown format is answered with an error of its own and does not end the stream.
    """

    timestamp_s: float
    data: bytes
    format: PixelFormat
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SoundPiece:
    """A piece of mono sound: `pcm` holds little-endian int16 (S,), its first value heard at `timestamp_s`."""

    timestamp_s: float
    pcm: bytes
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class LiveMasks:
    """The answer to one live frame; `num_dropped_frames` counts since the stream began."""

    masks: FrameMasks
    latency_s: float
    num_dropped_frames: int


@dataclass(frozen=True, slots=True)
class LiveFrameError:
    """A frame or a piece of sound that could not be used; the stream goes on."""

    timestamp_s: float
    code: str
    detail: str


LiveInput = LiveFrame | SoundPiece
LiveEvent = ModelInfo | LiveMasks | LiveFrameError
