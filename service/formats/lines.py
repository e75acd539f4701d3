"""An answer as NDJSON in one file; the same lines as those of a streamed answer."""

from __future__ import annotations

from service.codec.answer_json import encode_line
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import Summary
from service.formats.formatter import Formatter


class LinesFormatter(Formatter):
    """Writes each event of the answer as a line when it comes.

    Args:
        is_compressed: run lengths as COCO's strings. Lists of run lengths take milliseconds a mask.
    """

    def __init__(self, *, is_compressed: bool = True) -> None:
        self.is_slow = not is_compressed
        self._is_compressed = is_compressed

    def add(self, event: AnswerEvent) -> bytes:
        """Return the line of an event."""
        return encode_line(event, is_compressed=self._is_compressed)

    def start(self, started: ClipStarted) -> bytes:
        """Return the line of the start."""
        return self.add(started)

    def end(self, summary: Summary) -> bytes:
        """Return the line of the end."""
        return self.add(summary)
