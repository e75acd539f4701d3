"""The options of a request. Each option is declared once, here; see `option_table` for what derives from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from service.domain.errors import ServiceError
from service.domain.option_table import Option, check_values, option, options_of, parse_fields, same_option
from service.domain.option_types import Choice, Flag, Names, Number, Rate, WholeNumber
from service.domain.result import ModelInfo

MaskSize = Literal["source", "model"]
AnswerPart = Literal["events"]

# Highest sampling rate. `native` is bounded by the limits on clips instead.
MAX_FPS = 60.0
# Default threshold of a binary checkpoint: the point where a pixel more likely sounds than not.
BINARY_THRESHOLD = 0.5
# Default threshold of a semantic checkpoint: the winning class is kept whatever its probability.
SEMANTIC_THRESHOLD = 0.0
# Defaults of events, chosen on 160 clips of the synthetic world (60 seeds from 3 200 000 on, 100 from 3 210 000 on,
# fps=10); `avesformer bench --only events` measures them on other clips. An onset of 0.5 loses a tenth of the events of
# `tiny-semantic`: where it wavers between two kinds, both score just under a half. Masks of binary checkpoints score at
# least 0.5, so every one of them counts.
EVENT_ONSET = 0.44
EVENT_OFFSET = 0.3
# The longest pause that the synthetic world counts as sounding.
EVENT_GAP_S = 0.25
# Three fifths of the world's shortest sound; a shorter, surer event is more often one than a long doubtful one.
EVENT_MIN_S = 0.3
# Largest index of a sound track; a file with more tracks is refused anyway.
MAX_AUDIO_TRACK = 255


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """Options as asked for. None means the default, which depends on the model or the clip.

    Times are seconds on the clip's presentation time line. Construction raises ServiceError `bad_option` for a value
    that is out of range.
    """

    fps: float | Literal["native"] = option(
        Rate(MAX_FPS), default=1.0, help="Samples per second of clip; `native` takes every frame."
    )
    start_s: float = option(Number(unit="seconds"), default=0.0, help="Start of the part to answer, in seconds.")
    end_s: float | None = option(
        Number(unit="seconds"),
        default=None,
        default_help="end of the clip",
        help="End of the part to answer, in seconds; over `start_s`.",
    )
    threshold: float | None = option(
        Number(most=1.0),
        default=None,
        default_help="0.5 for binary checkpoints, 0 for semantic ones",
        help="Least probability of a pixel: of sounding (binary checkpoints), of the winning class (semantic ones).",
    )
    size: MaskSize = option(
        Choice(("source", "model")),
        default="source",
        help="Size of the masks: the clip's display size, or the model's output size.",
    )
    labels: tuple[str, ...] | None = option(
        Names(),
        default=None,
        default_help="all",
        help="Labels to return, separated by commas; each must be a label of the checkpoint.",
    )
    min_area: int = option(
        WholeNumber(unit="pixels"), default=0, help="Masks with fewer pixels than this are left out."
    )
    audio_track: int | None = option(
        WholeNumber(most=MAX_AUDIO_TRACK),
        default=None,
        default_help="the enabled default track",
        help="Index of the sound track to use, counted from 0 among the clip's sound tracks.",
    )
    instances: bool = option(
        Flag(), default=False, help="Masks of single objects with a `track_id`, in place of one mask per label."
    )
    only: AnswerPart | None = option(
        Choice(("events",)),
        default=None,
        default_help="masks and events",
        help="`events` leaves the frames and their masks out.",
    )
    event_onset: float = option(Number(most=1.0), default=EVENT_ONSET, help="Least score of the best mask of an event.")
    event_offset: float = option(
        Number(most=1.0),
        default=EVENT_OFFSET,
        help="Least score of every mask of an event; at most `event_onset` counts.",
    )
    event_gap_s: float = option(
        Number(unit="seconds"), default=EVENT_GAP_S, help="Longest pause inside of an event, in seconds."
    )
    event_min_s: float = option(
        Number(unit="seconds"), default=EVENT_MIN_S, help="Least duration of an event times its mean score, in seconds."
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ServiceError("bad_option", "end_s: give a number of seconds over start_s.")

    def resolve(self, model: ModelInfo) -> AppliedOptions:
        """Return the options with defaults that depend on the model; raises `bad_option` for unknown labels."""
        unknown = [label for label in self.labels or () if label not in model.labels]
        if unknown:
            known = ", ".join(model.labels)
            raise ServiceError("bad_option", f"labels: this checkpoint does not know {unknown[0]!r}; it knows {known}.")
        given = {declared.name: getattr(self, declared.name) for declared in dataclasses.fields(self)}
        if self.threshold is None:
            given["threshold"] = SEMANTIC_THRESHOLD if model.is_semantic else BINARY_THRESHOLD
        given["labels"] = tuple(label for label in model.labels if self.labels is None or label in self.labels)
        return AppliedOptions(**given)


@dataclass(frozen=True, slots=True)
class AppliedOptions(SegmentOptions):
    """Options as applied to a model: `threshold` is a number and `labels` are named, in the model's order."""

    threshold: float = same_option(SegmentOptions, "threshold", default=BINARY_THRESHOLD)
    labels: tuple[str, ...] = same_option(SegmentOptions, "labels", default=())


OPTIONS = options_of(SegmentOptions)
# How an answer is written, not what it holds: beside SegmentOptions, so that equal answers have one cache key.
RLE = Option(
    name="rle",
    type=Choice(("compressed", "uncompressed")),
    default="compressed",
    help="Run lengths of masks in JSON and CSV: COCO's string, or a list of numbers.",
)
OPTION_NAMES = tuple(declared.name for declared in OPTIONS)


def parse_options(fields: Mapping[str, str]) -> SegmentOptions:
    """Return the options of text fields (query or form); raises `bad_option`."""
    return parse_fields(SegmentOptions, fields)
