"""Jobs with `only=events` and `instances` go on where they stopped, wherever that was, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco
from support.components.job_site import LEASE_S, NUM_FRAMES, Paced, Site, play
from support.components.leased_jobs import FrontView

from service.codec.answer_json import decode_stored, encode_line
from service.core.instance_stage import instance_tracker, keep_state
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, Mask, Rle, SoundEvent, Summary
from service.domain.track_states import TrackStates
from service.postprocess.instances import InstanceTracker

SIDE_PX, HEIGHT_PX, WIDTH_PX = 12, 48, 96
RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 200, 30)
# Left edge of each object by frame; None where it is hidden. Red passes blue between frames 3 and 4, green is there at
# the start alone, and red is away in frame 5.
PLACES = {
    GREEN: [40, 42, None, None, None, None, None, None],
    RED: [4, 14, 24, 34, 46, None, 66, 76],
    BLUE: [80, 70, 60, 44, 34, 24, 14, 4],
}
TOPS = {GREEN: 2, RED: 20, BLUE: 36}
INSTANCES = SegmentOptions(instances=True, event_gap_s=0.5, event_min_s=0.0)
EVENTS = SegmentOptions(only="events", event_gap_s=0.5, event_min_s=0.0)
BOTH = replace(INSTANCES, only="events")
SCORES = [{"dog": 0.9, "cat": 0.9}, {"dog": 0.9}, {}, {"cow": 0.9}, {}, {}, {"cow": 0.7, "dog": 0.9}, {"dog": 0.9}]
CHUNK_FRAMES = 3


def draw(number: int) -> tuple[NDArray[np.uint8], Mask]:
    """Return a picture of the crossing objects and the mask of their label."""
    picture = np.full((HEIGHT_PX, WIDTH_PX, 3), 128, np.uint8)
    inside = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for colour, places in PLACES.items():
        left = places[number]
        if left is not None:
            area = np.s_[TOPS[colour] : TOPS[colour] + SIDE_PX, left : left + SIDE_PX]
            picture[area], inside[area] = colour, 1
    rle = coco.encode(np.asfortranarray(inside))
    x, y, width, height = (int(side) for side in coco.toBbox(rle))
    size = (HEIGHT_PX, WIDTH_PX)
    return picture, Mask("dog", 0.9, int(inside.sum()), (x, y, width, height), Rle(size, rle["counts"].decode()))


class Crossing(Paced):
    """Answers with the crossing objects, separated by the real tracker; its state is kept where a chunk ends."""

    async def _masks(self, options: SegmentOptions, context: RequestContext) -> AsyncGenerator[AnswerEvent, None]:
        tracker: InstanceTracker | None = None
        async for event in super()._masks(options, context):
            if isinstance(event, ClipStarted):
                tracker = instance_tracker(event.options, context)
            if isinstance(event, FrameMasks) and tracker is not None:
                picture, mask = draw(event.index)
                tracked = tracker.add(replace(event, masks=(mask,)), picture)
                if event.index % CHUNK_FRAMES == CHUNK_FRAMES - 1:
                    keep_state(tracker, [tracked], context)
                yield tracked
            else:
                yield event


async def settle(site: Site, job: Job) -> Job:
    """Let a new front work on the job until its end."""
    front = site.front()
    ended = await site.until_settled(job)
    await front.aclose()
    return ended


async def stored_lines(site: Site, job: Job) -> list[AnswerEvent]:
    """Return what is stored of the answer, without its timings."""
    ended = site.shared.jobs[job.job_id]
    data = [await site.shelf.get(ended.part_name(number)) for number in range(len(ended.part_starts))]
    events = decode_stored(b"".join(part or b"" for part in data))
    return [replace(event, timings_s={}) if isinstance(event, Summary) else event for event in events]


async def put_cut(
    site: Site, lines: list[bytes], options: SegmentOptions, *, state: bytes | None = None, **changes: object
) -> Job:
    """Submit a job whose process ended when these lines and this state were stored."""
    job = await site.submit(options=options)
    starts = tuple(range(0, len(lines), 4))
    stored = {"part_starts": starts, "part_attempts": (1,) * len(starts), "num_lines": len(lines), "attempt": 1}
    name = "" if state is None else f"{job.blob_prefix()}/1/tracks-{len(starts)}"
    site.view.set(job.job_id, **stored | {"track_state": name} | changes)
    cut = site.shared.jobs[job.job_id]
    for number, start in enumerate(starts):
        await site.shelf.put(cut.part_name(number), b"".join(lines[start : start + 4]))
    if state is not None:
        await site.shelf.put(name, state)
    return cut


def states_of(events: list[AnswerEvent], options: SegmentOptions) -> TrackStates:
    """Return the states that an uninterrupted run keeps."""
    states = TrackStates()
    context = RequestContext("r", "job", None, track_states=states)  # type: ignore[arg-type]
    started = next(event for event in events if isinstance(event, ClipStarted))
    tracker = instance_tracker(started.options, context)
    assert tracker is not None
    for number in range(NUM_FRAMES):
        picture, mask = draw(number)
        tracked = tracker.add(FrameMasks(number + 0.9375, float(number), number, (mask,)), picture)
        if number % CHUNK_FRAMES == CHUNK_FRAMES - 1:
            keep_state(tracker, [tracked], context)
    return states


def test_an_answer_of_events_alone_cut_after_any_line_is_continued(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.paced.scores = SCORES
        job = await site.submit(options=EVENTS)
        await settle(site, job)
        whole = await stored_lines(site, job)
        read = [event async for event in site.jobs.answer(site.shared.jobs[job.job_id])]
        assert not any(isinstance(event, FrameMasks) for event in read)
        assert sum(isinstance(event, SoundEvent) for event in read) == 5
        assert isinstance(read[0], ClipStarted)
        assert read[0].options.only == "events"
        frames = [event for event in whole if isinstance(event, FrameMasks)]
        assert len(frames) == NUM_FRAMES
        assert not any(mask.segmentation.counts for frame in frames for mask in frame.masks)
        lines = [encode_line(event) for event in whole]
        for num_stored in range(2, len(lines) + 1):
            before = len(site.paced.computed)
            cut = await put_cut(site, lines[:num_stored], EVENTS)
            ended = await settle(site, cut)
            assert (ended.state, ended.attempt, ended.progress) == ("done", 2, 1.0), num_stored
            assert await stored_lines(site, cut) == whole, num_stored
            last = [event.index for event in whole[:num_stored] if isinstance(event, FrameMasks)][-1]
            computed = [] if num_stored == len(lines) else list(range(last, NUM_FRAMES))
            assert site.paced.computed[before:] == computed, num_stored

    play(tmp_path, scene)


def test_followers_of_events_alone_get_no_frames(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.paced.scores = SCORES
        job = await site.submit(options=EVENTS)
        site.front()
        followed = [event async for event in site.jobs.follow(job.job_id, owner=job.owner)]
        kinds = [event.kind for event in followed]
        assert kinds.count("event") == 5
        assert "frame" not in kinds
        assert kinds[-1] == "done"
        assert any(0 < event.job.progress < 1 for event in followed)
        numbers = [event.number for event in followed]
        assert numbers == sorted(numbers)

    play(tmp_path, scene)


@pytest.mark.parametrize("options", [INSTANCES, BOTH])
def test_tracks_cut_after_any_line_are_continued(tmp_path: Path, options: SegmentOptions) -> None:
    async def scene(site: Site) -> None:
        site.paced = Crossing()
        job = await site.submit(options=options)
        ended = await settle(site, job)
        assert ended.track_state
        assert ended.track_state not in site.shelf.blobs, "an ended job needs no state"
        whole = await stored_lines(site, job)
        frames = [event for event in whole if isinstance(event, FrameMasks)]
        ids = [[mask.track_id for mask in frame.masks] for frame in frames]
        assert ids == [[1, 2, 3], [1, 2, 3], [2, 3], [2, 3], [2, 3], [3], [2, 3], [2, 3]]
        assert frames[6].masks[0].gap_s == 2.0
        lines = [encode_line(event) for event in whole]
        for num_stored in range(2, len(lines) + 1):
            stored = [event for event in whole[:num_stored] if isinstance(event, FrameMasks)]
            state = states_of(whole, options).take_until(stored[-1].sample_time_s)
            before = len(site.paced.computed)
            cut = await put_cut(site, lines[:num_stored], options, state=state)
            ended = await settle(site, cut)
            assert (ended.state, ended.attempt) == ("done", 2), num_stored
            assert await stored_lines(site, cut) == whole, num_stored
            # what follows the last whole chunk is computed again
            chunks = len(stored) // CHUNK_FRAMES * CHUNK_FRAMES
            computed = [] if num_stored == len(lines) else list(range(max(0, chunks - 1), NUM_FRAMES))
            assert site.paced.computed[before:] == computed, num_stored

    play(tmp_path, scene)


@pytest.mark.parametrize("fault", ["none", "damaged", "of a later sample", "lost"])
def test_tracks_without_their_state_start_again(tmp_path: Path, fault: str) -> None:
    async def scene(site: Site) -> None:
        site.paced = Crossing()
        job = await site.submit(options=INSTANCES)
        await settle(site, job)
        whole = await stored_lines(site, job)
        states = states_of(whole, INSTANCES)
        state = states.take_until(100.0 if fault == "of a later sample" else 3.0)
        assert state is not None
        if fault == "damaged":
            state = state[:-30]
        cut = await put_cut(
            site, [encode_line(event) for event in whole[:5]], INSTANCES, state=None if fault == "none" else state
        )
        if fault == "lost":
            del site.shelf.blobs[cut.track_state]
        before = len(site.paced.computed)
        await settle(site, cut)
        assert site.paced.computed[before:] == list(range(NUM_FRAMES))
        assert await stored_lines(site, cut) == whole

    play(tmp_path, scene)


@pytest.mark.parametrize("seconds", [1.2, 1.7, 2.2, 3.2, 3.7])
def test_a_dead_fronts_tracks_are_continued_by_another(tmp_path: Path, seconds: float) -> None:
    async def scene(site: Site) -> None:
        site.paced = Crossing()
        whole_job = await site.submit(options=INSTANCES)
        await settle(site, whole_job)
        job = await site.submit(options=INSTANCES)
        cut = FrontView(site.shared)
        front = site.front(view=cut, flush_s=0.0)
        await asyncio.sleep(seconds)
        cut.is_down = True
        await asyncio.sleep(LEASE_S + 1)
        num_frames = site.shared.jobs[job.job_id].num_lines - 1  # beside the clip
        before = len(site.paced.computed)
        ended = await settle(site, job)
        await front.aclose()
        assert (ended.state, ended.attempt) == ("done", 2)
        assert await stored_lines(site, job) == await stored_lines(site, whole_job)
        first = site.paced.computed[before]
        assert num_frames - CHUNK_FRAMES - 1 <= first <= num_frames
        assert first > 0 or num_frames < CHUNK_FRAMES + 1

    play(tmp_path, scene)
