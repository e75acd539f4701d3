"""The bodies of REST as models, for /openapi.json; `shapes.py` writes what they describe (a test compares)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """An error (RFC 9457); `code` is stable, `detail` says what was wrong with this request."""

    type: str = Field(examples=["urn:avesformer:problem:no_audio"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; programs decide by it.")
    request_id: str
    retry_after_s: int | None = Field(None, description="Seconds after which to try again, where that can help.")


class Segmentation(BaseModel):
    """COCO compressed run lengths; `pycocotools.mask.decode` reads them as they stand."""

    size: list[int] = Field(description="[height, width]", min_length=2, max_length=2)
    counts: str


class Mask(BaseModel):
    """One label's pixels in one frame; never empty."""

    label: str
    score: float = Field(description="Mean probability inside the mask.", ge=0, le=1)
    area: int = Field(description="Pixels.", ge=1)
    bbox: list[int] = Field(description="[x, y, width, height]", min_length=4, max_length=4)
    segmentation: Segmentation


class Frame(BaseModel):
    """What sounds in one sampled frame; `masks` is empty where nothing does."""

    sample_time_s: float = Field(description="The instant asked for; rises strictly.")
    timestamp_s: float = Field(description="The shown frame's own time.")
    index: int = Field(description="The frame's place in presentation order, from the clip's start.")
    masks: list[Mask]


class Model(BaseModel):
    """The model that answered."""

    variant: str
    checkpoint: str = Field(examples=["sha256:…"])
    labels: list[str]
    world_version: int | None


class Clip(BaseModel):
    """The upload, decoded: display size in pixels (after crop and rotation, without sample aspect ratio)."""

    width: int
    height: int
    sample_aspect_ratio: str = Field(examples=["1:1"])
    duration_s: float | None
    frame_rate: float | None
    num_samples: int | None


class Options(BaseModel):
    """The options as applied."""

    fps: float | Literal["native"]
    start_s: float
    end_s: float | None
    threshold: float
    size: Literal["source", "model"]
    labels: list[str]
    min_area: int


class TimingsS(BaseModel):
    """Seconds by stage; stages overlap."""

    upload: float
    decode: float
    queue: float
    predict: float
    encode: float
    total: float


class Answer(BaseModel):
    """The whole answer of POST /segment as one document."""

    request_id: str
    model: Model
    clip: Clip
    options: Options
    frames: list[Frame]
    timings_s: TimingsS
    cached: bool


class ClipLine(BaseModel):
    """The first line of an NDJSON answer; duration and number of samples may be null here."""

    type: Literal["clip"]
    request_id: str
    model: Model
    clip: Clip
    options: Options


class FrameLine(Frame):
    """A line for each frame, in order."""

    type: Literal["frame"]


class HeartbeatLine(BaseModel):
    """A line after every 10 s of silence."""

    type: Literal["heartbeat"]


class EndLine(BaseModel):
    """The last line of a complete answer."""

    type: Literal["end"]
    timings_s: TimingsS
    num_samples: int
    cached: bool


class ErrorLine(BaseModel):
    """The last line of an answer that failed after its first frame."""

    type: Literal["error"]
    problem: Problem


DOCUMENTED = (Problem, Answer, ClipLine, FrameLine, HeartbeatLine, EndLine, ErrorLine)
"""What /openapi.json names in its components."""
