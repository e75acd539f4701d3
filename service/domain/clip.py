"""The decoded clip of one request, as its caller sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What the upload holds: display size in pixels (after crop and rotation, without sample aspect ratio).

    `duration_s`, `frame_rate` and `num_samples` are None while a streamed upload does not yet tell them.
    """

    width: int
    height: int
    sample_aspect_ratio: str
    duration_s: float | None
    frame_rate: float | None
    num_samples: int | None
