"""What a client gets: the values of the domain, gathered into one answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.options import AppliedOptions
from service.domain.request import AnswerEvent, ClipStarted, complete_clip
from service.domain.result import FrameMasks, ModelInfo, SoundEvent, Summary
from service.postprocess.events import event_order

# Is told every event as it comes; after a retry the events begin anew with another ClipStarted.
OnEvent = Callable[[AnswerEvent], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; frames in order of time, events in order of their starts."""

    request_id: str
    model: ModelInfo
    clip: ClipInfo
    options: AppliedOptions
    frames: tuple[FrameMasks, ...]
    summary: Summary
    events: tuple[SoundEvent, ...] = ()


@dataclass(slots=True)
class AnswerGatherer:
    """Puts events together; `answer` fails where the stream was cut."""

    on_event: OnEvent | None = None
    _started: ClipStarted | None = None
    _frames: list[FrameMasks] = field(default_factory=list)
    _events: list[SoundEvent] = field(default_factory=list)
    _summary: Summary | None = None

    def take(self, event: AnswerEvent) -> None:
        """Take the next event."""
        if isinstance(event, ClipStarted):
            self._started = event
            self._frames, self._events = [], []
        elif isinstance(event, Summary):
            self._summary = event
        elif isinstance(event, SoundEvent):
            self._events.append(event)
        else:
            self._frames.append(event)
        if self.on_event is not None:
            self.on_event(event)

    def answer(self) -> Answer:
        """The answer; raises ServiceError `backend_down` (retryable) if the end did not come."""
        if self._started is None or self._summary is None:
            raise cut_off()
        start, clip = self._started, complete_clip(self._started.clip, self._summary)
        events = tuple(sorted(self._events, key=event_order))
        frames = tuple(self._frames)
        return Answer(start.request_id, start.model, clip, start.options, frames, self._summary, events)


def cut_off() -> ServiceError:
    """The error for an answer that stopped without an end."""
    return ServiceError("backend_down", "The connection broke before the answer was complete; send the clip again.")
