"""Jobs whose process ended go on where they stopped, wherever that was, on virtual time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.components.job_site import LEASE_S, NUM_FRAMES, Site, play
from support.components.leased_jobs import FrontView

from service.codec.answer_json import encode_line
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary
from service.jobs.computation import MAX_DEATHS

# Two events that one frame closes, one that another closes, and three that the end of the clip closes.
SCORES = [
    {"dog": 0.9, "cat": 0.9},
    {"dog": 0.9, "cat": 0.8},
    {},
    {"cow": 0.9},
    {},
    {},
    {"cow": 0.7, "dog": 0.9, "cat": 0.9},
    {"cow": 0.9, "dog": 0.9, "cat": 0.9},
]
OPTIONS = SegmentOptions(event_gap_s=0.5, event_min_s=0.0)


async def cut_after(site: Site, seconds: float, job: Job) -> None:
    """Let a front work on a job for some seconds, cut it off, and wait until its lease has expired."""
    cut = FrontView(site.shared)
    front = site.front(view=cut)
    await asyncio.sleep(seconds)
    cut.is_down = True
    await asyncio.sleep(LEASE_S + 1)
    with suppress(ServiceError):
        await front.aclose()
    assert not site.shared.jobs[job.job_id].has_ended


def test_a_job_goes_on_where_a_dead_front_stopped(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        job = await site.submit()
        await cut_after(site, 2.7, job)
        num_stored = site.shared.jobs[job.job_id].num_lines - 1
        assert num_stored > 2
        before = len(site.paced.computed)
        site.front()
        ended = await site.until_settled(job)
        # the last stored sample is where the rest begins
        assert site.paced.computed[before:] == list(range(num_stored - 1, NUM_FRAMES))
        assert [context.heard_from_s for context in site.paced.contexts] == [None, 0.0]
        assert await site.frames(job) == list(range(NUM_FRAMES))
        events = [event async for event in site.jobs.answer(ended)]
        assert isinstance(events[-1], Summary)
        assert events[-1].num_samples == NUM_FRAMES
        assert set(ended.part_attempts) == {1, 2}

    play(tmp_path, scene)


def test_an_answer_never_mixes_models(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        job = await site.submit()
        await cut_after(site, 2.7, job)
        before = len(site.paced.computed)
        site.paced.model = replace(site.paced.model, checkpoint="sha256:other")
        site.front()
        ended = await site.until_settled(job)
        assert site.paced.computed[before:] == list(range(NUM_FRAMES))
        events = [event async for event in site.jobs.answer(ended)]
        assert isinstance(events[0], ClipStarted)
        assert events[0].model.checkpoint == "sha256:other"
        assert await site.frames(job) == list(range(NUM_FRAMES))

    play(tmp_path, scene)


def test_crashes_with_progress_between_them_are_no_poison(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        job = await site.submit()
        for _ in range(MAX_DEATHS + 1):
            await cut_after(site, 1.2, job)
        site.front()
        ended = await site.until_settled(job)
        assert (ended.state, ended.attempt) == ("done", MAX_DEATHS + 2)
        assert await site.frames(job) == list(range(NUM_FRAMES))

    play(tmp_path, scene)


async def stored_events(site: Site, job: Job) -> list[AnswerEvent]:
    """Return the stored answer without its timings."""
    events = [event async for event in site.jobs.answer(site.shared.jobs[job.job_id])]
    return [replace(event, timings_s={}) if isinstance(event, Summary) else event for event in events]


async def put_stored(
    site: Site, lines: list[bytes], *, options: SegmentOptions = OPTIONS, part_lines: int = 4, **changes: object
) -> Job:
    """Submit a job whose process ended when these lines were stored."""
    job = await site.submit(options=options)
    assert site.shared.jobs[job.job_id].state == "queued"
    starts = tuple(range(0, len(lines), part_lines))
    stored = {"part_starts": starts, "part_attempts": (1,) * len(starts), "num_lines": len(lines), "attempt": 1}
    site.view.set(job.job_id, **stored | changes)
    for number, start in enumerate(starts):
        name = site.shared.jobs[job.job_id].part_name(number)
        await site.shelf.put(name, b"".join(lines[start : start + part_lines]))
    return site.shared.jobs[job.job_id]


async def whole_answer(site: Site) -> list[AnswerEvent]:
    """Return the answer of a job that nothing interrupts."""
    job = await site.submit(options=OPTIONS)
    await settle(site, job)
    return await stored_events(site, job)


async def settle(site: Site, job: Job) -> Job:
    """Let a new front work on the job until its end."""
    front = site.front()
    ended = await site.until_settled(job)
    await front.aclose()
    return ended


def test_an_answer_cut_after_any_line_is_continued_to_the_same_answer(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.paced.scores = SCORES
        whole = await whole_answer(site)
        assert sum(isinstance(event, SoundEvent) for event in whole) == 6
        lines = [encode_line(event) for event in whole]
        for num_stored in range(2, len(lines) + 1):
            before = len(site.paced.computed)
            job = await put_stored(site, lines[:num_stored])
            ended = await settle(site, job)
            assert (ended.state, ended.attempt, ended.num_lines) == ("done", 2, len(lines)), num_stored
            assert await stored_events(site, job) == whole, num_stored
            frames = [event.index for event in whole[:num_stored] if isinstance(event, FrameMasks)]
            computed = [] if num_stored == len(lines) else list(range(frames[-1], NUM_FRAMES))
            assert site.paced.computed[before:] == computed, num_stored

    play(tmp_path, scene)


@pytest.mark.parametrize("fault", ["an event of another version", "a lost line", "a part that is cut", "a lost event"])
def test_an_answer_that_this_version_would_not_give_starts_again(tmp_path: Path, fault: str) -> None:
    async def scene(site: Site) -> None:
        site.paced.scores = SCORES
        whole = await whole_answer(site)
        lines = [encode_line(event) for event in whole]
        place, event = next((at, each) for at, each in enumerate(whole) if isinstance(each, SoundEvent))
        stored = lines[: place + 3]
        if fault == "an event of another version":
            stored[place] = encode_line(replace(event, end_s=0.5))
        elif fault == "a part that is cut":
            stored[-1] = stored[-1][:-9]
        elif fault == "a lost event":
            del stored[place]
        num_lines = len(stored) + (fault == "a lost line")
        before = len(site.paced.computed)
        job = await put_stored(site, stored, num_lines=num_lines)
        await settle(site, job)
        assert site.paced.computed[before:] == list(range(NUM_FRAMES))
        assert await stored_events(site, job) == whole

    play(tmp_path, scene)


def test_an_answer_never_mixes_sizes(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        lines = [encode_line(event) for event in await whole_answer(site)]
        site.paced.size = (8, 6)
        job = await put_stored(site, lines[:4])
        await settle(site, job)
        started = (await stored_events(site, job))[0]
        assert isinstance(started, ClipStarted)
        assert started.clip.width == 8
        assert await site.frames(job) == list(range(NUM_FRAMES))

    play(tmp_path, scene)
