"""What callers see of jobs: followed frames and states, refusals."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from support.components.job_site import NUM_FRAMES, OWNER, Site, play

from service.domain.errors import ServiceError
from service.jobs.api import JobEvent


def test_followers_of_an_erased_job_see_that_it_was_cancelled(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front()
        job = await site.submit()
        seen = []

        async def follow() -> None:
            async with aclosing(site.jobs.follow(job.job_id, owner=OWNER)) as events:
                seen.extend([(event.kind, event.job.state, event.job.has_ended) async for event in events])

        following = asyncio.create_task(follow())
        await asyncio.sleep(2.2)
        await site.jobs.erase(job.job_id, owner=OWNER)
        await following
        assert seen[-2][1:] == ("running", False)
        assert seen[-1] == ("progress", "cancelled", True)

    play(tmp_path, scene)


def test_a_follower_is_told_each_frame_once_whatever_front_dies(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        first = site.front()
        job = await site.submit()
        events: list[JobEvent] = []

        async def follow() -> None:
            async with aclosing(site.jobs.follow(job.job_id, owner=OWNER)) as told:
                async for event in told:
                    events.append(event)

        following = asyncio.create_task(follow())
        await asyncio.sleep(2.7)
        await first.aclose()
        site.front()
        await following
        assert [event.frame.index for event in events if event.frame] == list(range(NUM_FRAMES))
        assert events[-1].kind == "done"
        numbers = [event.number for event in events if event.kind == "frame"]
        assert numbers == sorted(set(numbers))
        for number in (0, numbers[2], numbers[-1]):
            again = [event async for event in site.jobs.follow(job.job_id, owner=OWNER, after=number)]
            assert [event.number for event in again if event.frame] == [n for n in numbers if n > number]
            assert again[-1].kind == "done"

    play(tmp_path, scene)


def test_a_full_queue_and_other_callers_are_refused(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        jobs = [await site.submit() for _ in range(10)]
        with pytest.raises(ServiceError, match="queue_full"):
            await site.submit()
        with pytest.raises(ServiceError, match="job_not_found"):
            await site.jobs.get(jobs[0].job_id, owner="another")
        with pytest.raises(ServiceError, match="job_not_ready"):
            await site.frames(jobs[0])
        with suppress(ServiceError):
            await site.jobs.erase(jobs[0].job_id, owner="another")
        assert len(site.shared.jobs) == 10

    play(tmp_path, scene)
