"""COCO for video, as `format=coco` of the service writes it, and what `pycocotools.coco.COCO.loadRes` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.client.answer import Answer, answer_events
from service.codec.run_lengths import segmentation
from service.formats.coco import CocoFormatter

_NO_BOUND = 1 << 62


def to_coco(answer: Answer, *, is_compressed: bool = True) -> dict[str, Any]:
    """Return the document: an annotation per label and track with `segmentations`, `bboxes` and `areas` per sample.

    Args:
        answer: a whole answer.
        is_compressed: run lengths as COCO's strings, else as lists of numbers.
    """
    formatter = CocoFormatter(is_compressed=is_compressed, max_bytes=_NO_BOUND)
    written = b"".join([formatter.add(event) for event in answer_events(answer)])
    document: dict[str, Any] = json.loads(formatter.opening() + written)
    return document


def to_coco_images(answer: Answer) -> dict[str, Any]:
    """Return a COCO data set without annotations: an image per frame (ids from 1), a category per label (from 1).

    `file_name` is made of the frame's `index`, so it repeats where frames do. Sizes are those of the masks.
    """
    sizes = (mask.segmentation.size for frame in answer.frames for mask in frame.masks)
    height, width = next(sizes, (answer.clip.height, answer.clip.width))
    images = [
        {"id": number, "file_name": f"{frame.index:06d}.png", "height": height, "width": width}
        for number, frame in enumerate(answer.frames, start=1)
    ]
    categories = [{"id": number, "name": label} for label, number in _category_ids(answer).items()]
    return {
        "info": {"description": answer.model.checkpoint},
        "images": images,
        "categories": categories,
        "annotations": [],
    }


def to_coco_results(
    answer: Answer, *, image_ids: Sequence[int] | None = None, category_ids: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Return COCO's results of an answer, a mask each.

    Args:
        answer: a whole answer.
        image_ids: ids of the frames in your data set, in the order of the answer; None for those of `to_coco_images`.
        category_ids: ids of the labels in your data set, whose other masks are left out; None likewise.

    Raises:
        ValueError: another number of image ids than frames.
    """
    images = range(1, len(answer.frames) + 1) if image_ids is None else image_ids
    if len(images) != len(answer.frames):
        raise ValueError(f"{len(images)} image ids for an answer of {len(answer.frames)} frames")
    categories = _category_ids(answer) if category_ids is None else category_ids
    return [
        {
            "image_id": image_id,
            "category_id": categories[mask.label],
            "segmentation": segmentation(mask.segmentation, is_compressed=True),
            "score": mask.score,
            **({} if mask.track_id is None else {"track_id": mask.track_id}),
        }
        for image_id, frame in zip(images, answer.frames, strict=True)
        for mask in frame.masks
        if mask.label in categories
    ]


def _category_ids(answer: Answer) -> dict[str, int]:
    return {label: number for number, label in enumerate(answer.model.labels, start=1)}
