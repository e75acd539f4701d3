"""Values of an answer: masks, frames, the model that made them. Field metadata documents them in the API's schemas."""

from __future__ import annotations

from dataclasses import dataclass, field

# The one label of a binary checkpoint.
SOUNDING = "sounding"
# Decimals of seconds and scores in answers, the same on every transport.
ANSWER_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Rle:
    """COCO compressed run lengths, column-major, zeros first; `pycocotools.mask.decode` reads them unchanged."""

    size: tuple[int, int] = field(metadata={"description": "[height, width] in pixels"})
    counts: str = field(metadata={"description": "Run lengths in COCO's ASCII encoding."})


@dataclass(frozen=True, slots=True)
class Mask:
    """One label's pixels in one frame; never empty."""

    label: str
    score: float = field(metadata={"description": "Mean probability inside the mask, 0 to 1."})
    area: int = field(metadata={"description": "Number of pixels."})
    bbox: tuple[int, int, int, int] = field(metadata={"description": "[x, y, width, height] in pixels"})
    segmentation: Rle
    track_id: int | None = field(
        default=None,
        metadata={"description": "The object, the same in all frames of the answer; absent without `instances=true`."},
    )
    gap_s: float | None = field(
        default=None,
        metadata={
            "description": "Seconds since the last mask of the same track, where samples in between have none: it was "
            "hidden or silent. Absent otherwise."
        },
    )


@dataclass(frozen=True, slots=True)
class FrameMasks:
    """Masks of one sampled frame; empty if nothing sounds. Times in seconds on the clip's time line."""

    sample_time_s: float = field(metadata={"description": "Time that was asked for; strictly increasing."})
    timestamp_s: float = field(metadata={"description": "The shown frame's own time; may repeat."})
    index: int = field(metadata={"description": "The frame's number in presentation order, from the clip's start."})
    masks: tuple[Mask, ...]


@dataclass(frozen=True, slots=True)
class SoundEvent:
    """An interval in which a label, or one track of it, sounds. Seconds on the clip's time line."""

    label: str
    track_id: int | None = field(metadata={"description": "The track that sounds; null without instances."})
    start_s: float
    end_s: float
    peak_area: int = field(metadata={"description": "Largest area of the masks inside, in pixels."})
    mean_score: float = field(metadata={"description": "Mean score of the masks inside, 0 to 1."})


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model behind an answer.

    A binary checkpoint has one output channel (a sigmoid); a semantic one has a background channel 0 and then one
    channel per label (a softmax), so `len(labels) + 1` channels.
    """

    variant: str = field(metadata={"description": "Name of the model's configuration."})
    checkpoint: str = field(metadata={"description": "`sha256:` and the hash of the weights file."})
    labels: tuple[str, ...] = field(metadata={"description": "In mask order."})
    world_version: int | None = field(
        metadata={"description": "Version of the synthetic world the weights were trained on; null for other data."}
    )
    input_height: int = field(
        default=0, metadata={"description": "Height of the frames that the model takes, in pixels."}
    )
    input_width: int = field(
        default=0, metadata={"description": "Width of the frames that the model takes, in pixels."}
    )
    offset_lag_s: float = field(
        default=0.0,
        metadata={"description": "Seconds that masks go on after their sound, as measured; events end earlier by it."},
    )

    @property
    def is_semantic(self) -> bool:
        """Return whether masks carry kinds (softmax with background) instead of the single label `sounding`."""
        return self.labels != (SOUNDING,)


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of an answer."""

    num_samples: int = field(metadata={"description": "Number of frames in the answer."})
    timings_s: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "description": "Seconds by stage (upload, decode, queue, predict, encode, total). Stages overlap in time."
        },
    )
    cached: bool = field(default=False, metadata={"description": "Whether the answer came from the result cache."})
    audio_notes: tuple[str, ...] = field(default=(), metadata={"description": "The notes of `clip.audio`."})
