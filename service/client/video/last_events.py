"""The sound events that a live stream leaves untold when its connection is lost."""

from __future__ import annotations

from service.domain.live import LiveEvent, LiveMasks, LiveOptions
from service.domain.result import ModelInfo, SoundEvent
from service.postprocess.events import EventTracker


class LastEvents:
    """Follows one connection and knows which events were open, or not yet told, when it ended.

    Applies the server's rule to the masks that arrived. The server tells the events of a frame right behind its masks,
    and those that the end of the stream closes before the end; what it could not tell any more is left.

    Args:
        options: of the stream.
    """

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._tracker = EventTracker(options, is_live=True)
        self._closed: list[SoundEvent] = []
        self._told: list[SoundEvent] = []

    def take(self, event: LiveEvent) -> None:
        """Take the next event of the connection."""
        if isinstance(event, ModelInfo):
            self._tracker = EventTracker(self._options, offset_lag_s=event.offset_lag_s, is_live=True)
        elif isinstance(event, LiveMasks):
            self._closed, self._told = self._tracker.add(event.masks), []
        elif isinstance(event, SoundEvent):
            self._told.append(event)

    def untold(self) -> list[SoundEvent]:
        """Return the events to tell when the connection has ended, those that were open closed at its last sample."""
        told = {_identity(event) for event in self._told}
        return [event for event in self._closed + self._tracker.finish() if _identity(event) not in told]


def _identity(event: SoundEvent) -> tuple[str, int | None, float]:
    return event.label, event.track_id, round(event.start_s, 3)
