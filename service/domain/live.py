"""Values of a live stream: options, frames and sound from the client; masks and errors to the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.domain.option_table import check_values, option, same_option
from service.domain.option_types import Number, WholeNumber
from service.domain.options import (
    EVENT_GAP_S,
    EVENT_MIN_S,
    EVENT_OFFSET,
    EVENT_ONSET,
    AppliedOptions,
    MaskSize,
    SegmentOptions,
)
from service.domain.result import FrameMasks, ModelInfo, SoundEvent

PixelFormat = Literal["jpeg", "rgb24", "unknown"]

# Longest wait for sound that a client may ask for, in seconds; with a longer one the answer is no longer live.
MAX_AUDIO_WAIT_S = 5.0
# Most frames of one stream that may wait (256 MiB at 4 MiB per message).
MAX_WAITING_FRAMES = 64


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """Options of a live stream, declared like SegmentOptions. Construction raises `bad_option`."""

    threshold: float | None = same_option(SegmentOptions, "threshold", default=None)
    size: MaskSize = same_option(SegmentOptions, "size", default="source")
    labels: tuple[str, ...] | None = same_option(SegmentOptions, "labels", default=None)
    instances: bool = same_option(SegmentOptions, "instances", default=False)
    event_onset: float = same_option(SegmentOptions, "event_onset", default=EVENT_ONSET)
    event_offset: float = same_option(SegmentOptions, "event_offset", default=EVENT_OFFSET)
    event_gap_s: float = same_option(SegmentOptions, "event_gap_s", default=EVENT_GAP_S)
    event_min_s: float = same_option(SegmentOptions, "event_min_s", default=EVENT_MIN_S)
    max_audio_wait_s: float = option(
        Number(most=MAX_AUDIO_WAIT_S, unit="seconds"),
        default=0.1,
        help="Longest wait for a frame's sound, in seconds from its arrival; what is missing then is silence.",
    )
    max_waiting_frames: int = option(
        WholeNumber(least=1, most=MAX_WAITING_FRAMES),
        default=4,
        help="Frames that may wait; one more drops the oldest.",
    )

    def __post_init__(self) -> None:
        check_values(self)

    def resolve(self, model: ModelInfo) -> AppliedOptions:
        """Return what applies to every frame; raises `bad_option` for labels that the model does not know."""
        return SegmentOptions(
            threshold=self.threshold, size=self.size, labels=self.labels, instances=self.instances
        ).resolve(model)


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """One encoded (jpeg) or raw (rgb24, H * W * 3 bytes) picture; width and height may be 0 for jpeg.

    A frame of unknown format gets a LiveFrameError and does not end the stream.
    """

    timestamp_s: float
    data: bytes
    format: PixelFormat
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SoundPiece:
    """A piece of mono sound: `pcm` is little-endian int16 (S,), its first value at `timestamp_s`."""

    timestamp_s: float
    pcm: bytes
    sample_rate_hz: int


@dataclass(frozen=True, slots=True)
class LiveMasks:
    """The answer to one live frame; `num_dropped_frames` counts from the start of the stream."""

    masks: FrameMasks
    latency_s: float
    num_dropped_frames: int


@dataclass(frozen=True, slots=True)
class LiveFrameError:
    """A frame or a piece of sound that could not be used. The stream continues."""

    timestamp_s: float
    code: str
    detail: str


LiveInput = LiveFrame | SoundPiece
LiveEvent = ModelInfo | LiveMasks | LiveFrameError | SoundEvent
