"""Base of all formats: takes the events of an answer one by one and returns the bytes that can be written."""

from __future__ import annotations

from abc import ABC, abstractmethod

from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary


class Formatter(ABC):
    """Converts one answer. `opening` and then the bytes that `add` returned, in order, are the file.

    Attributes:
        is_slow: whether `add` draws or converts masks, so that it should not run on an event loop.
    """

    is_slow: bool = True

    def add(self, event: AnswerEvent) -> bytes:
        """Take the next event of the answer; returns the bytes that are ready."""
        if isinstance(event, ClipStarted):
            return self.start(event)
        if isinstance(event, FrameMasks):
            return self.frame(event)
        if isinstance(event, SoundEvent):
            return self.event(event)
        return self.end(event)

    @abstractmethod
    def start(self, started: ClipStarted) -> bytes:
        """Take the start."""

    def frame(self, frame: FrameMasks) -> bytes:
        """Take a frame; formats of events pass over it."""
        return b""

    def event(self, event: SoundEvent) -> bytes:
        """Take an event; formats of masks pass over it."""
        return b""

    @abstractmethod
    def end(self, summary: Summary) -> bytes:
        """Take the end."""

    def opening(self) -> bytes:
        """Return the first bytes of the file where only the end of the answer tells them. Call it after the end."""
        return b""
