"""Masks as CSV, a row per mask with its run lengths; with `only=events` a row per event (RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from service.codec.run_lengths import run_lengths
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Rle, SoundEvent, Summary
from service.formats.formatter import Formatter
from service.postprocess.events import event_order

MASK_COLUMNS = (
    "sample_time_s", "timestamp_s", "index", "label", "track_id", "score", "area", "x", "y", "width", "height",
    "mask_height", "mask_width", "counts",
)  # fmt: skip
EVENT_COLUMNS = ("label", "track_id", "start_s", "end_s", "peak_area", "mean_score")


class TableFormatter(Formatter):
    """Writes rows of masks as frames come, or rows of events at the end.

    Args:
        is_compressed: whether run lengths are COCO's strings, or numbers separated by blanks.
    """

    def __init__(self, *, is_compressed: bool) -> None:
        self._is_compressed = is_compressed
        self._has_masks = True
        self._events: list[SoundEvent] = []

    def start(self, started: ClipStarted) -> bytes:
        """Write the names of the columns."""
        self._has_masks = started.options.only != "events"
        return _rows([MASK_COLUMNS if self._has_masks else EVENT_COLUMNS])

    def frame(self, frame: FrameMasks) -> bytes:
        """Write the frame's masks."""
        return _rows(
            [
                (
                    *(frame.sample_time_s, frame.timestamp_s, frame.index),
                    *(mask.label, mask.track_id, mask.score, mask.area, *mask.bbox),
                    *(*mask.segmentation.size, self._counts(mask.segmentation)),
                )
                for mask in frame.masks
            ]
        )

    def event(self, event: SoundEvent) -> bytes:
        """Keep an event for the end."""
        self._events.append(event)
        return b""

    def end(self, summary: Summary) -> bytes:
        """Write the events where they are asked for."""
        if self._has_masks:
            return b""
        events = sorted(self._events, key=event_order)
        return _rows([[getattr(event, name) for name in EVENT_COLUMNS] for event in events])

    def _counts(self, rle: Rle) -> str:
        return rle.counts if self._is_compressed else " ".join(map(str, run_lengths(rle.counts)))


def _rows(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
