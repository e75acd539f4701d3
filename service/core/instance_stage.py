"""Instances in the data path: one tracker for an answer, which takes the frames chunk after chunk."""

from __future__ import annotations

from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.options import AppliedOptions
from service.domain.request import RequestContext
from service.domain.result import ANSWER_DECIMALS, FrameMasks
from service.postprocess.instances import InstanceTracker


def instance_tracker(options: AppliedOptions, context: RequestContext) -> InstanceTracker | None:
    """Return the tracker of an answer, continued where an earlier run stopped; None without `instances`."""
    if not options.instances:
        return None
    state = None if context.track_states is None else context.track_states.start
    return InstanceTracker(step_s=0.0 if options.fps == "native" else 1.0 / options.fps, state=state)


def track_chunk(tracker: InstanceTracker, chunk: Chunk, segmented: SegmentedChunk) -> list[FrameMasks]:
    """Return the frames of the next chunk, their masks separated into instances."""
    pictures = chunk.samples.frames
    return [
        tracker.add(frame, pictures[number], segmented.maps_of(number)) for number, frame in enumerate(segmented.frames)
    ]


def keep_state(tracker: InstanceTracker, frames: list[FrameMasks], context: RequestContext) -> None:
    """Keep the tracker's state after the last of the frames, where the answer can be continued."""
    if context.track_states is not None and frames:
        context.track_states.keep(round(float(frames[-1].sample_time_s), ANSWER_DECIMALS), tracker.state())
