"""Values of an answer: masks, frames, the model that made them."""

from __future__ import annotations

from dataclasses import dataclass, field

SOUNDING = "sounding"
"""The one label of a binary checkpoint."""


@dataclass(frozen=True, slots=True)
class Rle:
    """COCO compressed run lengths, column-major, zeros first: `size` is (height, width), `counts` ASCII."""

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, slots=True)
class Mask:
    """One label's pixels in one frame, never empty. `score`: mean probability inside; bbox: x, y, width, height."""

    label: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    segmentation: Rle


@dataclass(frozen=True, slots=True)
class FrameMasks:
    """What sounds in one sampled frame (`masks` empty where nothing does). Seconds on the clip's time line."""

    sample_time_s: float
    timestamp_s: float
    index: int
    masks: tuple[Mask, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model behind an answer. `labels` are in mask order; `checkpoint` is `sha256:…` of the weights file.

    A binary checkpoint has one output channel (a sigmoid); a semantic one has a background channel 0 and then one
    channel per label (a softmax), so `len(labels) + 1` channels.
    """

    variant: str
    checkpoint: str
    labels: tuple[str, ...]
    world_version: int | None
    input_height: int
    input_width: int

    @property
    def is_semantic(self) -> bool:
        """Whether masks carry kinds (softmax with background) rather than the one label `sounding`."""
        return self.labels != (SOUNDING,)


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of an answer: seconds spent by stage (upload, decode, queue, predict, encode, total)."""

    num_samples: int
    timings_s: dict[str, float] = field(default_factory=dict)
    cached: bool = False
