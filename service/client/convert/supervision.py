"""supervision: the masks of a frame as `sv.Detections`."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.client.answer import Answer
from service.client.convert.arrays import frame_pixels
from service.client.convert.missing import needed
from service.domain.result import FrameMasks


def to_detections(frame: FrameMasks, answer: Answer) -> Any:
    """Return a frame's masks as `supervision.Detections`: `class_id` counts the model's labels, `data` has their names.

    Raises:
        ServiceError: `bad_option`, supervision is not installed.
    """
    with needed("supervision"):
        import supervision
    boxes = np.array([mask.bbox for mask in frame.masks], dtype=float).reshape(-1, 4)
    tracks = [mask.track_id for mask in frame.masks]
    has_tracks = bool(tracks) and None not in tracks
    return supervision.Detections(
        xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - 1], axis=1),  # inclusive, as mask_to_xyxy
        mask=frame_pixels(frame, height=answer.clip.height, width=answer.clip.width),
        confidence=np.array([mask.score for mask in frame.masks], dtype=float),
        class_id=np.array([answer.model.labels.index(mask.label) for mask in frame.masks], dtype=int),
        tracker_id=np.array(tracks, dtype=int) if has_tracks else None,
        data={"class_name": np.array([mask.label for mask in frame.masks], dtype=str)},
    )
