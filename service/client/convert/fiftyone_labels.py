"""FiftyOne: the masks of an answer as `fo.Detections` by frame number."""

from __future__ import annotations

from typing import Any

from service.client.answer import Answer
from service.client.convert.arrays import mask_pixels
from service.client.convert.missing import needed
from service.domain.result import Mask


def detection_fields(mask: Mask) -> dict[str, Any]:
    """Return the arguments of `fo.Detection`: a box in shares of the picture, and the mask inside the box."""
    height, width = mask.segmentation.size
    x, y, wide, high = mask.bbox
    return {
        "label": mask.label,
        "bounding_box": [x / width, y / height, wide / width, high / height],
        "mask": mask_pixels(mask)[y : y + high, x : x + wide],
        "confidence": mask.score,
        "index": mask.track_id,
    }


def to_fiftyone(answer: Answer) -> dict[int, Any]:
    """Return `fo.Detections` by frame number, which FiftyOne counts from 1: `sample.frames[number]["sounding"] = …`.

    Raises:
        ServiceError: `bad_option`, fiftyone is not installed.
    """
    with needed("fiftyone"):
        import fiftyone
    return {
        frame.index + 1: fiftyone.Detections(
            detections=[fiftyone.Detection(**detection_fields(mask)) for mask in frame.masks]
        )
        for frame in answer.frames
    }
