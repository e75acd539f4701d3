"""Shapes of the formats `coco` and `polygons`, from which /openapi.json documents them; their formatters write them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from service.codec.answer_json import Answer
from service.domain.request import ClipStarted
from service.domain.result import Rle, SoundEvent

_OF_ANSWER = Answer.__dataclass_fields__


@dataclass(frozen=True, slots=True)
class CocoInfo:
    """Who made the document: `version` is the checkpoint."""

    description: str
    version: str


@dataclass(frozen=True, slots=True)
class CocoFrame:
    """When a frame of the video was sampled, and its number in the clip."""

    sample_time_s: float
    timestamp_s: float
    index: int


@dataclass(frozen=True, slots=True)
class CocoVideo:
    """The clip, as a video of its sampled frames."""

    id: int
    width: int
    height: int
    length: int
    file_names: tuple[str, ...]
    frames: tuple[CocoFrame, ...]


@dataclass(frozen=True, slots=True)
class CocoCategory:
    """A label."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """A label, or one track of it, over all frames; lists hold null where it is absent."""

    id: int
    video_id: int
    category_id: int
    track_id: int | None
    iscrowd: int
    height: int
    width: int
    length: int
    score: float = dataclasses.field(metadata={"description": "Mean of the masks' scores."})
    segmentations: tuple[Rle | None, ...]
    bboxes: tuple[tuple[int, int, int, int] | None, ...]
    areas: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class CocoDocument:
    """One video in the layout of YouTube-VIS (`format=coco`)."""

    info: CocoInfo
    videos: tuple[CocoVideo, ...]
    categories: tuple[CocoCategory, ...]
    annotations: tuple[CocoAnnotation, ...]


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """One label's pixels in one frame, as rings along the edges of pixels."""

    label: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    size: tuple[int, int] = dataclasses.field(metadata={"description": "[height, width] in pixels"})
    polygons: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"description": "[[x0, y0, x1, y1, …], …]"})
    track_id: int | None = None
    gap_s: float | None = None


@dataclass(frozen=True, slots=True)
class PolygonFrame:
    """What sounds in one sampled frame."""

    sample_time_s: float
    timestamp_s: float
    index: int
    masks: tuple[PolygonMask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonAnswer(ClipStarted):
    """The answer with polygons in place of run lengths (`format=polygons`)."""

    frames: tuple[PolygonFrame, ...]
    events: tuple[SoundEvent, ...] = dataclasses.field(metadata=_OF_ANSWER["events"].metadata)
    timings_s: dict[str, float] = dataclasses.field(metadata=_OF_ANSWER["timings_s"].metadata)
    cached: bool = dataclasses.field(metadata=_OF_ANSWER["cached"].metadata)
