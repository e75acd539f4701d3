"""COCO for video in the layout of YouTube-VIS 2019: one annotation per label and track, one entry per frame in it.

https://youtube-vos.org/dataset/vis/: `videos`, `categories`, `annotations` with `segmentations`, `bboxes` and `areas`
that are null in the frames where the object is absent.
"""

from __future__ import annotations

import json
from typing import Any

from service.codec.run_lengths import segmentation
from service.domain.errors import ServiceError
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Mask, Summary
from service.formats.formatter import Formatter

_BYTES_PER_MASK = 256  # of the lists and numbers around its run lengths


class CocoFormatter(Formatter):
    """Collects masks by label and track and writes the document at the end.

    Args:
        is_compressed: whether run lengths are strings, as pycocotools reads them, or lists of numbers.
        max_bytes: of what is collected; more is `answer_too_large`.
    """

    def __init__(self, *, is_compressed: bool, max_bytes: int) -> None:
        self._is_compressed = is_compressed
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._frames: list[dict[str, Any]] = []
        self._objects: dict[tuple[str, int | None], dict[int, Mask]] = {}

    def start(self, started: ClipStarted) -> bytes:
        """Keep the start for the end."""
        self._started = started
        return b""

    def frame(self, frame: FrameMasks) -> bytes:
        """Keep a frame for the end; raises `answer_too_large`."""
        number = len(self._frames)
        self._frames.append(
            {"sample_time_s": frame.sample_time_s, "timestamp_s": frame.timestamp_s, "index": frame.index}
        )
        for mask in frame.masks:
            self._num_bytes += _BYTES_PER_MASK + len(mask.segmentation.counts)
            self._objects.setdefault((mask.label, mask.track_id), {})[number] = mask
        if self._num_bytes > self._max_bytes:
            raise ServiceError("answer_too_large", f"The COCO document is over the limit of {self._max_bytes} bytes.")
        return b""

    def end(self, summary: Summary) -> bytes:
        """Write the document."""
        started = self._started
        labels = {label: number for number, label in enumerate(started.model.labels, start=1)}
        names = [f"{frame['index']:06d}.png" for frame in self._frames]
        video = {"id": 1, "width": started.clip.width, "height": started.clip.height, "length": len(names)}
        document = {
            "info": {"description": "avesformer", "version": started.model.checkpoint},
            "videos": [{**video, "file_names": names, "frames": self._frames}],
            "categories": [{"id": number, "name": label} for label, number in labels.items()],
            "annotations": [
                self._annotation(number, labels[label], track_id, masks)
                for number, ((label, track_id), masks) in enumerate(self._objects.items(), start=1)
            ],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def _annotation(self, number: int, category: int, track_id: int | None, masks: dict[int, Mask]) -> dict[str, Any]:
        found = [masks.get(frame) for frame in range(len(self._frames))]
        size = next(iter(masks.values())).segmentation.size
        return {
            "id": number,
            "video_id": 1,
            "category_id": category,
            "track_id": track_id,
            "iscrowd": 0,
            "height": size[0],
            "width": size[1],
            "length": len(found),
            "score": round(sum(mask.score for mask in masks.values()) / len(masks), 6),
            "segmentations": [
                None if mask is None else segmentation(mask.segmentation, is_compressed=self._is_compressed)
                for mask in found
            ],
            "bboxes": [None if mask is None else list(mask.bbox) for mask in found],
            "areas": [None if mask is None else mask.area for mask in found],
        }
