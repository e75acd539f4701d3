"""How the answer of a job is stored: always with its frames, so that a later run can continue behind any of them.

With `only=events` the frames are stored without their run lengths, because the sound events depend on the rest alone.
Readers do not get them.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask


def with_frames(options: SegmentOptions) -> SegmentOptions:
    """Return the options with which a job is computed."""
    return replace(options, only=None)


def stored_form(event: AnswerEvent, options: SegmentOptions) -> AnswerEvent:
    """Return what is stored of an event of the answer to `with_frames(options)`."""
    if options.only is None:
        return event
    if isinstance(event, ClipStarted):
        return replace(event, options=replace(event.options, only=options.only))
    if isinstance(event, FrameMasks):
        return replace(event, masks=tuple(_without_pixels(mask) for mask in event.masks))
    return event


def is_for_readers(event: AnswerEvent, options: SegmentOptions) -> bool:
    """Return whether a stored event is part of the job's answer."""
    return options.only is None or not isinstance(event, FrameMasks)


def _without_pixels(mask: Mask) -> Mask:
    return replace(mask, segmentation=replace(mask.segmentation, counts=""))
