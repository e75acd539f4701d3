"""The JSON document of an answer."""

from __future__ import annotations

from service.codec.answer_json import encode_document_end, encode_document_start, encode_frame
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary
from service.formats.formatter import Formatter
from service.postprocess.events import event_order


class DocumentFormatter(Formatter):
    """Writes frames as they come. What stands before them has the number of samples, so it is known at the end.

    Args:
        is_compressed: run lengths as COCO's strings. Lists of run lengths take milliseconds a mask.
    """

    _started: ClipStarted
    _summary: Summary

    def __init__(self, *, is_compressed: bool = True) -> None:
        self.is_slow = not is_compressed
        self._is_compressed = is_compressed
        self._has_frames = False
        self._events: list[SoundEvent] = []

    def start(self, started: ClipStarted) -> bytes:
        """Keep the start for `opening`."""
        self._started = started
        return b""

    def frame(self, frame: FrameMasks) -> bytes:
        """Write a frame."""
        comma = b"," if self._has_frames else b""
        self._has_frames = True
        return comma + self.element(frame)

    def element(self, frame: FrameMasks) -> bytes:
        """Return one element of `frames`."""
        return encode_frame(frame, is_compressed=self._is_compressed)

    def event(self, event: SoundEvent) -> bytes:
        """Keep an event for the end."""
        self._events.append(event)
        return b""

    def end(self, summary: Summary) -> bytes:
        """Write the events and the rest of the summary."""
        self._summary = summary
        return encode_document_end(summary, sorted(self._events, key=event_order))

    def opening(self) -> bytes:
        """Return the document up to its first frame."""
        return encode_document_start(self._started, self._summary)
