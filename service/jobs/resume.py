"""Continue the answer of a job where an earlier run stopped, from the parts that the run stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from service.codec.answer_json import decode_stored
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary
from service.postprocess.stages import AnswerStages
from service.storage.blobs import Blobs


@dataclass(slots=True)
class StoredAnswer:
    """What earlier runs stored of an answer, and the state that its events have reached.

    Attributes:
        started: start of the answer.
        num_frames: stored frames.
        last_time_s: sample time of the last one.
        is_whole: whether the end was stored too.
        is_outdated: whether `follow` found that another model answers now, so that the job has to start again.
    """

    started: ClipStarted
    stages: AnswerStages
    num_frames: int = 0
    last_time_s: float = 0.0
    is_whole: bool = False
    is_outdated: bool = False

    def take(self, event: AnswerEvent) -> int:
        """Take the next stored event; returns the number of lines that the answer has for it."""
        if isinstance(event, SoundEvent):
            return 0  # comes out of the stages again
        if isinstance(event, FrameMasks):
            self.num_frames += 1
            self.last_time_s = event.sample_time_s
        self.is_whole = isinstance(event, Summary)
        return sum(1 for _ in self.stages.add(event))

    def remaining(self, options: SegmentOptions) -> SegmentOptions:
        """Return the job's options for the rest of the clip. It may begin with the last stored frame."""
        return replace(options, start_s=max(options.start_s, self.last_time_s))

    async def follow(self, events: AsyncGenerator[AnswerEvent, None]) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the rest of the answer, given the answer to `remaining`; nothing if another model answers.

        Its timings are those of this run.
        """
        async with aclosing(events):
            async for event in events:
                if isinstance(event, ClipStarted):
                    self.is_outdated = event.model != self.started.model
                    if self.is_outdated:
                        return
                elif isinstance(event, SoundEvent):
                    continue  # of the rest alone
                elif isinstance(event, FrameMasks) and event.sample_time_s <= self.last_time_s:
                    continue
                else:
                    for staged in self._counted(event):
                        yield staged

    def _counted(self, event: FrameMasks | Summary) -> list[AnswerEvent]:
        if isinstance(event, FrameMasks):
            self.num_frames += 1
        else:
            event = replace(event, num_samples=self.num_frames)
        return list(self.stages.add(event))


async def read_stored(job: Job, blobs: Blobs) -> StoredAnswer | None:
    """Return what is stored of a job's answer, or None if the job has to start again.

    A job with `instances` does: its tracks are a state of the pictures, which are not stored. So does one with
    `only=events`, which stores no frames.

    Raises:
        ServiceError: `backend_down`.
    """
    if job.options.instances or job.options.only is not None:
        return None
    stored: StoredAnswer | None = None
    num_lines = 0
    for number in range(len(job.part_starts)):
        data = await blobs.get(job.part_name(number))
        if data is None:
            return None
        try:
            events = list(decode_stored(data))
        except ServiceError:
            return None
        for event in events:
            if stored is None:
                if not isinstance(event, ClipStarted):
                    return None
                stored = StoredAnswer(event, AnswerStages(job.options))
            num_lines += stored.take(event)
    is_same = num_lines == job.num_lines  # else the events of another version of the service
    return stored if stored is not None and stored.num_frames and is_same else None
