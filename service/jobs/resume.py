"""Continue the answer of a job where an earlier run stopped, from the parts that the run stored."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from service.codec.answer_json import decode_stored
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import ANSWER_DECIMALS, FrameMasks, SoundEvent, Summary
from service.jobs.stored_form import with_frames
from service.postprocess.stages import AnswerStages
from service.postprocess.track_state import decode_state
from service.storage.blobs import Blobs

# Seconds that the rest starts before the last stored sample. Stored times are rounded, and a range that starts just
# after the last sample of a clip would be answered with one more, its last frame.
_OVERLAP_S: Final = 10.0**-ANSWER_DECIMALS


class _OtherAnswerError(Exception):
    """What is stored is not what this version of the service computes from the stored frames."""


@dataclass(slots=True)
class StoredAnswer:
    """What earlier runs stored of an answer, and the state that its events have reached.

    A process can end between any two lines, also between a frame and the sound events that it closes, or between the
    events that the end of the clip closes.

    Attributes:
        started: start of the answer.
        unstored: sound events that the stored frames gave, or the end of the clip, and that are not stored.
        num_frames: stored frames.
        last_time_s: sample time of the last one.
        is_ending: whether an event was stored that only the end of the clip gives, so that no frame may follow.
        is_whole: whether the end was stored too.
        track_state: state of the instance tracker that the rest continues from, None without `instances`.
        state_time_s: time of the sample of that state.
        is_outdated: whether `follow` found that the rest does not fit to what is stored (another model answers now, the
            pictures of the rest have another size), so that the job has to start again.
    """

    started: ClipStarted
    stages: AnswerStages
    unstored: deque[SoundEvent] = field(default_factory=deque)
    num_frames: int = 0
    last_time_s: float = 0.0
    is_ending: bool = False
    is_whole: bool = False
    is_outdated: bool = False
    track_state: bytes | None = None
    state_time_s: float = math.inf

    def take(self, event: AnswerEvent) -> None:
        """Take the next stored event. Raises _OtherAnswerError."""
        if isinstance(event, SoundEvent):
            self._take_sound_event(event)
            return
        if self.unstored or self.is_whole or (isinstance(event, FrameMasks) and self.is_ending):
            raise _OtherAnswerError
        if isinstance(event, FrameMasks):
            self.num_frames += 1
            self.last_time_s = event.sample_time_s
        if isinstance(event, Summary):
            self._end()
            self.is_whole = not self.unstored
        else:
            self.unstored.extend(staged for staged in self.stages.add(event) if isinstance(staged, SoundEvent))

    def remaining(self, options: SegmentOptions) -> SegmentOptions:
        """Return the job's options for the rest of the clip, which begins with the last stored frame or before it.

        With `instances` it begins with the frame of the tracker's state: up to a chunk of frames is computed again.
        """
        known_s = min(self.last_time_s, self.state_time_s)
        return replace(options, start_s=max(options.start_s, known_s - _OVERLAP_S))

    async def follow(self, events: AsyncGenerator[AnswerEvent, None]) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the rest of the answer, given the answer to `remaining`; nothing if it does not fit.

        Its timings are those of this run.
        """
        async with aclosing(events):
            async for event in events:
                if isinstance(event, SoundEvent):
                    continue  # of the rest alone
                if isinstance(event, FrameMasks) and event.sample_time_s <= self.last_time_s:
                    continue
                self.is_outdated = self.is_outdated or not self._fits(event)
                if self.is_outdated:
                    return
                for staged in self._continue(event):
                    yield staged

    def _fits(self, event: ClipStarted | FrameMasks | Summary) -> bool:
        if isinstance(event, ClipStarted):
            size, stored_size = ((each.clip.width, each.clip.height) for each in (event, self.started))
            return event.model == self.started.model and size == stored_size
        return not (isinstance(event, FrameMasks) and self.is_ending)

    def _continue(self, event: ClipStarted | FrameMasks | Summary) -> Iterator[AnswerEvent]:
        if isinstance(event, FrameMasks):
            self.num_frames += 1
            yield from self.stages.add(event)
            return
        if isinstance(event, Summary):
            self._end()
        while self.unstored:
            yield self.unstored.popleft()
        if isinstance(event, Summary):
            yield replace(event, num_samples=self.num_frames)

    def _take_sound_event(self, event: SoundEvent) -> None:
        if not self.unstored:
            self._end()
        if not self.unstored or self.unstored.popleft() != event:
            raise _OtherAnswerError

    def _end(self) -> None:
        """Add the events that the end of the clip closes to `unstored`, once."""
        if not self.is_ending:
            self.is_ending = True
            self.unstored.extend(self.stages.finish())


async def read_stored(job: Job, blobs: Blobs) -> StoredAnswer | None:
    """Return what is stored of a job's answer, or None if the job has to start again.

    Raises:
        ServiceError: `backend_down`.
    """
    stored = await _read_lines(job, blobs)
    if stored is None or stored.is_whole or not job.options.instances:
        return stored
    data = await blobs.get(job.track_state) if job.track_state else None
    state = None if data is None else decode_state(data)
    if state is None or state.time_s > stored.last_time_s + _OVERLAP_S:
        return None
    stored.track_state, stored.state_time_s = data, state.time_s
    return stored


async def _read_lines(job: Job, blobs: Blobs) -> StoredAnswer | None:
    stored: StoredAnswer | None = None
    num_lines = 0
    for number in range(len(job.part_starts)):
        data = await blobs.get(job.part_name(number))
        if data is None:
            return None
        try:
            for event in decode_stored(data):
                if stored is None and isinstance(event, ClipStarted):
                    stored = StoredAnswer(event, AnswerStages(with_frames(job.options)))
                if stored is None:
                    return None
                stored.take(event)
                num_lines += 1
        except (ServiceError, _OtherAnswerError):
            return None
    return stored if stored is not None and stored.num_frames and num_lines == job.num_lines else None
