"""The answer of a client: the values of the domain, collected from events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.options import AppliedOptions
from service.domain.request import AnswerEvent, ClipStarted, complete_clip
from service.domain.result import FrameMasks, Mask, ModelInfo, SoundEvent, Summary
from service.postprocess.events import event_order

# Called with every event as it arrives. After a retry the events start again with another ClipStarted.
OnEvent = Callable[[AnswerEvent], None]


@dataclass(frozen=True, slots=True)
class Track:
    """The masks of one label, or of one object of it (`track_id`), with the index of the frame of each."""

    label: str
    track_id: int | None
    masks: tuple[tuple[int, Mask], ...]

    @property
    def name(self) -> str:
        """The label, with the track's number where there is one."""
        return self.label if self.track_id is None else f"{self.label} {self.track_id}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; frames in order of time, events in order of their starts.

    `pip install '.[convert]'` brings what `to_coco…` and `service.client.convert` need, matplotlib what `plot` needs.
    """

    request_id: str
    model: ModelInfo
    clip: ClipInfo
    options: AppliedOptions
    frames: tuple[FrameMasks, ...]
    summary: Summary
    events: tuple[SoundEvent, ...] = ()

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What sounds, in the order of the model's labels; one track for each label where there are no instances."""
        found: dict[tuple[int, int, str, int | None], list[tuple[int, Mask]]] = {}
        for at, frame in enumerate(self.frames):
            for mask in frame.masks:
                place = self.model.labels.index(mask.label)
                track = -1 if mask.track_id is None else mask.track_id
                found.setdefault((place, track, mask.label, mask.track_id), []).append((at, mask))
        return tuple(Track(key[2], key[3], tuple(found[key])) for key in sorted(found, key=lambda key: key[:2]))

    def to_coco(self, *, is_compressed: bool = True) -> dict[str, Any]:
        """Return the answer in COCO's layout for video; see `service.client.convert.coco`."""
        from service.client.convert.coco import to_coco

        return to_coco(self, is_compressed=is_compressed)

    def to_coco_images(self) -> dict[str, Any]:
        """Return a COCO data set of the answer's frames, without annotations; see `service.client.convert.coco`."""
        from service.client.convert.coco import to_coco_images

        return to_coco_images(self)

    def to_coco_results(
        self, *, image_ids: Sequence[int] | None = None, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Return what `COCO.loadRes` reads; see `service.client.convert.coco`."""
        from service.client.convert.coco import to_coco_results

        return to_coco_results(self, image_ids=image_ids, category_ids=category_ids)

    def plot(self, *, axes: Any = None, value: str = "area") -> Any:
        """Draw curves and events with matplotlib; see `service.client.convert.plot`."""
        from service.client.convert.plot import plot

        return plot(self, axes=axes, value=value)


def answer_start(answer: Answer) -> ClipStarted:
    """Return the first part of an answer, with what only its end tells."""
    return ClipStarted(answer.request_id, answer.model, answer.clip, answer.options)


def answer_events(answer: Answer) -> Iterator[AnswerEvent]:
    """Yield the parts of an answer in the order of a stream; sound events come behind the last frame."""
    yield answer_start(answer)
    yield from answer.frames
    yield from answer.events
    yield answer.summary


@dataclass(slots=True)
class AnswerGatherer:
    """Collects the events of an answer. `answer` raises if the stream was cut."""

    on_event: OnEvent | None = None
    _started: ClipStarted | None = None
    _frames: list[FrameMasks] = field(default_factory=list)
    _events: list[SoundEvent] = field(default_factory=list)
    _summary: Summary | None = None

    def take(self, event: AnswerEvent) -> None:
        """Add the next event."""
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
        """Return the answer; raises ServiceError `backend_down` (retryable) if the end did not arrive."""
        if self._started is None or self._summary is None:
            raise cut_off()
        start, clip = self._started, complete_clip(self._started.clip, self._summary)
        events = tuple(sorted(self._events, key=event_order))
        frames = tuple(self._frames)
        return Answer(start.request_id, start.model, clip, start.options, frames, self._summary, events)


def cut_off() -> ServiceError:
    """Return the error for an answer that stopped without an end."""
    return ServiceError("backend_down", "The connection broke before the answer was complete; send the clip again.")
