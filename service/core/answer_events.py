"""Adds events to an answer while its frames pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import fields, replace
from typing import Any, Final

from service.domain.options import AppliedOptions, SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks
from service.media.upload import Upload
from service.ports import Answering
from service.postprocess.events import EventTracker

# The options that masks do not depend on, with their defaults.
_EVENT_DEFAULTS: Final[dict[str, Any]] = {
    option.name: option.default
    for option in fields(SegmentOptions)
    if option.name == "only" or option.name.startswith("event_")
}


class AnsweringWithEvents:
    """An `Answering` that puts each event behind the frame that closes it, and leaves frames out where asked to.

    Args:
        inner: computes the masks.
    """

    def __init__(self, inner: Answering) -> None:
        self._inner = inner

    async def check(self, options: SegmentOptions) -> None:
        """Refuse early what cannot be answered."""
        await self._inner.check(options)

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the clip, its frames (none with `only=events`) and events, and the summary."""
        tracker = EventTracker(options)
        async with aclosing(self._inner.answer(upload, _for_masks(options), context)) as events:
            async for event in events:
                if isinstance(event, ClipStarted):
                    applied = options.resolve(event.model)
                    tracker = _tracker(applied)
                    yield replace(event, options=applied)
                elif isinstance(event, FrameMasks):
                    if options.only != "events":
                        yield event
                    for closed in tracker.add(event):
                        yield closed
                else:
                    for closed in tracker.finish():
                        yield closed
                    yield event


def _for_masks(options: SegmentOptions) -> SegmentOptions:
    """Return the options without those of events, so that answers with equal masks are computed and stored once."""
    return replace(options, **_EVENT_DEFAULTS)


def _tracker(options: AppliedOptions) -> EventTracker:
    step_s = 0.0 if options.fps == "native" else 1.0 / options.fps
    return EventTracker(options, start_s=options.start_s, step_s=step_s)
