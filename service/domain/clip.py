"""The decoded clip of one request, as its caller sees it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """The upload, decoded. A streamed answer begins before the whole file is known, so the last three may be null."""

    width: int = field(metadata={"description": "Display width in pixels: after crop and rotation, without aspect."})
    height: int = field(metadata={"description": "Display height in pixels."})
    sample_aspect_ratio: str = field(metadata={"description": 'Shape of a pixel, such as "1:1" or "4:3".'})
    duration_s: float | None = field(metadata={"description": "Length of the picture track in seconds."})
    frame_rate: float | None = field(metadata={"description": "Mean frames per second."})
    num_samples: int | None = field(metadata={"description": "Number of frames in the answer."})
