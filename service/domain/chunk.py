"""The unit of work of a predictor: up to 32 samples of one clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.domain.deadline import Deadline
from service.domain.options import AppliedOptions
from service.domain.result import FrameMasks, ModelInfo

SAMPLE_RATE_HZ = 16_000
# One audio window: 0.975 s at 16 kHz, exactly the 96 log-mel frames of a VGGish example (25 ms window, 10 ms hop).
WINDOW_SAMPLES = 15_600
MAX_CHUNK_SAMPLES = 32
# A chunk is answered as a whole. The first chunk of a clip is one sample, so that its first masks leave early; each
# next one may be twice as long. So on a slow device too, the next masks never take much longer than all before them.
FIRST_CHUNK_SAMPLES = 1


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """T decoded samples of one clip, in order.

    Attributes:
        frames: uint8 (T, h, w, 3) RGB at the model's input size.
        audio: int16 (S,) mono 16 kHz; one span that covers the windows of all T samples.
        offsets: int64 (T,); window t is `audio[offsets[t] : offsets[t] + WINDOW_SAMPLES]`.
        sample_times_s: float64 (T,), strictly rising.
        timestamps_s: float64 (T,), the frames' own times.
        indexes: int64 (T,), the frames' places in presentation order.
    """

    frames: NDArray[np.uint8]
    audio: NDArray[np.int16]
    offsets: NDArray[np.int64]
    sample_times_s: NDArray[np.float64]
    timestamps_s: NDArray[np.float64]
    indexes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def num_bytes(self) -> int:
        """Return the number of bytes of the arrays."""
        return self.frames.nbytes + self.audio.nbytes

    def windows(self) -> NDArray[np.float32]:
        """Return the audio windows, float32 (T, 15600) in [-1, 1)."""
        at = self.offsets[:, None] + np.arange(WINDOW_SAMPLES)[None, :]
        scaled: NDArray[np.float32] = self.audio[at].astype(np.float32) / np.float32(32768.0)
        return scaled


@dataclass(frozen=True, slots=True)
class MaskPolicy:
    """How logits become masks: size (height, width) of the answer, threshold, labels to return, least area (pixels).

    With `with_maps` each mask comes with its ProbabilityMap, which instances take their scores from.
    """

    output_size: tuple[int, int]
    threshold: float
    labels: tuple[str, ...]
    min_area: int
    with_maps: bool = False

    @classmethod
    def of(cls, applied: AppliedOptions, *, source_size: tuple[int, int], model: ModelInfo) -> MaskPolicy:
        """Return the policy for masks at the source's display size or at the model's size, as the options say.

        Args:
            applied: the options that apply to the clip or stream.
            source_size: (height, width) of the clip or picture in pixels.
            model: the model that answers.
        """
        return cls(
            output_size=source_size if applied.size == "source" else (model.input_height, model.input_width),
            threshold=applied.threshold,
            labels=applied.labels,
            min_area=applied.min_area,
            with_maps=applied.instances,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of samples for a predictor, with everything that is needed to compute its masks.

    `checkpoint` is that of the ModelInfo that the options were resolved with, so that a rolling upgrade cannot send the
    chunk to another model; empty means any model. `traceparent` identifies the span that the work belongs to. `is_live`
    marks a frame of a live stream, beside which no batch waits long. It is not transmitted to workers: without decoders
    beside them, their batches never wait long.
    """

    request_id: str
    chunk_no: int
    samples: SampleBlock
    masks: MaskPolicy
    deadline: Deadline
    is_interactive: bool = True
    checkpoint: str = ""
    traceparent: str = ""
    is_live: bool = False

    def under(self, traceparent: str) -> Chunk:
        """Return the same chunk with another parent span."""
        return self if traceparent == self.traceparent else replace(self, traceparent=traceparent)


@dataclass(frozen=True, slots=True)
class ProbabilityMap:
    """The probabilities of one label at the head's resolution: base64 of uint8 (height, width), 255 for certainty."""

    size: tuple[int, int]
    values: str


@dataclass(frozen=True, slots=True)
class MappedMasks(FrameMasks):
    """The masks of one sample with the map behind each of them, as the encoder returns them."""

    maps: tuple[ProbabilityMap, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentedChunk:
    """The result of a chunk: one FrameMasks per sample, in order, and seconds by stage.

    `maps` has one map per mask for each frame; it is empty where they were not asked for.
    """

    frames: tuple[FrameMasks, ...]
    queue_s: float
    predict_s: float
    encode_s: float
    maps: tuple[tuple[ProbabilityMap, ...], ...] = ()

    def maps_of(self, number: int) -> tuple[ProbabilityMap, ...]:
        """Return the maps of a frame by its place in the chunk; none where they were not asked for."""
        return self.maps[number] if number < len(self.maps) else ()


def split_maps(
    frames: Sequence[FrameMasks],
) -> tuple[tuple[FrameMasks, ...], tuple[tuple[ProbabilityMap, ...], ...]]:
    """Return encoded frames without their maps, and the maps; no maps at all where no frame has any."""
    if not any(isinstance(frame, MappedMasks) for frame in frames):
        return tuple(frames), ()
    plain = tuple(FrameMasks(each.sample_time_s, each.timestamp_s, each.index, each.masks) for each in frames)
    return plain, tuple(each.maps if isinstance(each, MappedMasks) else () for each in frames)
