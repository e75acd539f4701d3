"""The stages between the masks of an answer and its reader. Pure and streaming: one event in, any number out.

Masks are computed once for all readers of an answer and cached; stages run for each reader, because their options are
the reader's own. Today there is one stage: sound events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Final

from service.domain.options import AppliedOptions, SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, ModelInfo, SoundEvent
from service.postprocess.events import EventTracker

# The options that masks do not depend on, with their defaults.
_STAGE_DEFAULTS: Final[dict[str, Any]] = {
    option.name: option.default
    for option in fields(SegmentOptions)
    if option.name == "only" or option.name.startswith("event_")
}


def mask_options(options: SegmentOptions) -> SegmentOptions:
    """Return the options without those of the stages, so that answers with equal masks are computed and stored once."""
    return replace(options, **_STAGE_DEFAULTS)


class AnswerStages:
    """Adds sound events to one answer, each behind the frame that closes it, and drops frames with `only=events`.

    Args:
        options: the reader's own.
    """

    def __init__(self, options: SegmentOptions) -> None:
        self._options = options
        self._tracker = EventTracker(options)

    def add(self, event: AnswerEvent) -> Iterator[AnswerEvent]:
        """Take the next event of the masks' answer; yields what the reader gets for it."""
        if isinstance(event, ClipStarted):
            applied = self._options.resolve(event.model)
            self._tracker = _tracker(applied, event.model)
            yield replace(event, options=applied)
        elif isinstance(event, FrameMasks):
            if self._options.only != "events":
                yield event
            yield from self._tracker.add(event)
        else:
            yield from self.finish()
            yield event

    def finish(self) -> list[SoundEvent]:
        """Return the events that the end of the clip closes; none at a second call."""
        return self._tracker.finish()


def _tracker(options: AppliedOptions, model: ModelInfo) -> EventTracker:
    step_s = 0.0 if options.fps == "native" else 1.0 / options.fps
    return EventTracker(options, start_s=options.start_s, step_s=step_s, offset_lag_s=model.offset_lag_s)
