"""COCO for video, as `format=coco` of the service writes it."""

from __future__ import annotations

import json
from typing import Any

from service.client.answer import Answer, answer_events
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
