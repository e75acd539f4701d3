"""The job runner on virtual time: leases of fronts, retries, deletion, outages of the stores, sweeping."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from support.components.job_site import FRAME_S, LEASE_S, NUM_FRAMES, OWNER, TTL_S, Site, play
from support.components.leased_jobs import FrontView
from support.virtual_time import virtual_clock

from service.domain.errors import ServiceError
from service.jobs.computation import MAX_DEATHS


def test_a_job_is_answered_in_parts_and_told(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front()
        job = await site.submit(webhook="https://example.com/")
        await asyncio.sleep(2.7)
        halfway = await site.jobs.get(job.job_id, owner=OWNER)
        assert halfway.state == "running"
        assert 0 < halfway.progress < 1
        ended = await site.until_settled(job)
        assert (ended.state, ended.progress, ended.attempt, ended.num_deaths) == ("done", 1.0, 1, 0)
        assert len(ended.part_starts) > 2
        assert await site.frames(job) == list(range(NUM_FRAMES))
        assert [told.state for told in site.told] == ["done"]
        context = site.paced.contexts[0]
        assert not context.is_interactive
        assert not context.may_use_cache
        assert context.deadline.remaining_s(virtual_clock) == float("inf")

    play(tmp_path, scene)


def test_a_new_job_wakes_the_runner(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(poll_s=1000.0)
        await asyncio.sleep(1)
        begun_s = virtual_clock()
        await site.until_settled(await site.submit())
        assert virtual_clock() - begun_s < 10

    play(tmp_path, scene)


def test_a_partitioned_fronts_job_is_done_by_another_and_only_once(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        cut = FrontView(site.shared)
        site.front(view=cut)
        job = await site.submit(webhook="https://example.com/")
        await asyncio.sleep(2.2)
        cut.is_down = True
        site.front()
        await asyncio.sleep(LEASE_S + 2)
        cut.is_down = False
        ended = await site.until_settled(job)
        await asyncio.sleep(2 * LEASE_S)
        assert (ended.state, ended.attempt, ended.num_deaths) == ("done", 2, 1)
        assert await site.frames(job) == list(range(NUM_FRAMES))
        assert len(site.told) == 1
        assert site.paced.num_inside == 0

    play(tmp_path, scene)


def test_a_closed_front_gives_back_at_once(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        first = site.front()
        job = await site.submit()
        await asyncio.sleep(2.2)
        await first.aclose()
        assert site.shared.jobs[job.job_id].state == "queued"
        assert site.paced.num_cut == 1
        begun_s = virtual_clock()
        site.front()
        ended = await site.until_settled(job)
        assert (ended.state, ended.attempt, ended.num_deaths) == ("done", 2, 0)
        assert virtual_clock() - begun_s < LEASE_S

    play(tmp_path, scene)


def test_what_trying_again_can_help_is_tried_again(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front()
        site.paced.failures = [ServiceError("backend_down", "away", retry_after_s=3.0), ServiceError("queue_full", "")]
        ended = await site.until_settled(await site.submit())
        assert (ended.state, ended.attempt, ended.num_deaths) == ("done", 3, 0)
        site.paced.failures = [ServiceError("no_audio", "silent")]
        failed = await site.until_settled(await site.submit())
        assert (failed.state, failed.code, failed.detail, failed.attempt) == ("failed", "no_audio", "silent", 1)
        assert failed.ended_at_s is not None

    play(tmp_path, scene)


def test_trying_again_has_an_end(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(retry_for_s=60.0)
        site.paced.failures = [ServiceError("backend_down", "away") for _ in range(1000)]
        job = await site.submit()
        failed = await site.until_settled(job)
        assert (failed.state, failed.code) == ("failed", "backend_down")
        assert 60 <= virtual_clock() - job.created_at_s < 60 + LEASE_S
        with pytest.raises(ServiceError, match="backend_down"):
            await site.frames(failed)

    play(tmp_path, scene)


def test_a_fault_inside_fails_its_job_and_no_other(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(num_parallel=1)
        site.paced.failures = [ZeroDivisionError("a bug")]
        failed = await site.until_settled(await site.submit())
        assert (failed.state, failed.code) == ("failed", "internal")
        assert (await site.until_settled(await site.submit())).state == "done"

    play(tmp_path, scene)


def test_an_upload_that_is_gone_fails_its_job(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        job = await site.submit()
        site.shelf.blobs.clear()
        site.front()
        assert (await site.until_settled(job)).code == "internal"

    play(tmp_path, scene)


def test_a_finished_job_can_keep_its_clip_until_it_expires(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(sweep_s=1.0)
        done = await site.submit(keeps_clip=True)
        await site.until_settled(done)
        site.paced.failures = [ServiceError("broken", "Damaged.")]
        failed = await site.submit(keeps_clip=True)
        await site.until_settled(failed)
        assert failed.upload_name() not in site.shelf.blobs
        ended = await site.jobs.get(done.job_id, owner=OWNER)
        async with site.jobs.clip(ended, site.spool, max_bytes=1000) as clip:
            assert clip.is_complete
            assert os.pread(clip.fd, 1000, 0) == b"clip" * 60
        await asyncio.sleep(TTL_S + 2)
        assert not site.shelf.blobs
        with pytest.raises(ServiceError) as caught:
            async with site.jobs.clip(ended, site.spool, max_bytes=1000):
                pass
        assert caught.value.code == "job_expired"

    play(tmp_path, scene)


def test_the_upload_of_an_ended_job_is_gone_and_its_answer_is_not(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front()
        done = await site.until_settled(await site.submit())
        site.paced.failures = [ServiceError("no_audio", "silent")]
        failed = await site.until_settled(await site.submit())
        assert not [name for name in site.shelf.blobs if name in (done.upload_name(), failed.upload_name())]
        assert await site.frames(done)

    play(tmp_path, scene)


def test_an_erased_job_is_stopped_and_not_told(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front()
        job = await site.submit(webhook="https://example.com/")
        await asyncio.sleep(2.2)
        await site.jobs.erase(job.job_id, owner=OWNER)
        await asyncio.sleep(0.1)
        assert (site.paced.num_inside, site.paced.num_cut) == (0, 1)
        await asyncio.sleep(3 * LEASE_S)
        assert (site.told, site.shelf.blobs, site.shared.jobs) == ([], {}, {})

    play(tmp_path, scene)


def test_a_job_erased_at_another_front_is_stopped_at_the_next_renewal(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(view=FrontView(site.shared), flush_s=1000.0)
        site.jobs.on_erased = lambda job_id: None
        job = await site.submit()
        await asyncio.sleep(1.0)
        await site.jobs.erase(job.job_id, owner=OWNER)
        await asyncio.sleep(LEASE_S / 4)
        assert site.paced.num_inside == 0

    play(tmp_path, scene)


def test_a_job_that_kills_its_fronts_is_given_up(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        job = await site.submit()
        site.view.set(job.job_id, state="running", num_deaths=MAX_DEATHS - 1)
        site.front()
        failed = await site.until_settled(job)
        assert (failed.state, failed.code) == ("failed", "poison_clip")
        assert site.paced.contexts == []

    play(tmp_path, scene)


@pytest.mark.parametrize("flush_s", [0.5, 1000.0])
@pytest.mark.parametrize("is_shelf", [False, True])
def test_a_store_that_is_away_for_a_moment_costs_no_work(tmp_path: Path, flush_s: float, is_shelf: bool) -> None:
    async def scene(site: Site) -> None:
        cut = FrontView(site.shared)
        site.front(view=cut, flush_s=flush_s)
        job = await site.submit()
        await asyncio.sleep(NUM_FRAMES * FRAME_S - 1.2)
        cut.is_down = not is_shelf
        site.shelf.error = ServiceError("backend_down", "away") if is_shelf else None
        await asyncio.sleep(LEASE_S / 2)
        cut.is_down, site.shelf.error = False, None
        ended = await site.until_settled(job)
        assert (ended.state, ended.attempt) == ("done", 1)
        assert await site.frames(job) == list(range(NUM_FRAMES))

    play(tmp_path, scene)


def test_lines_that_wait_for_a_store_are_bounded(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(flush_bytes=1.0, flush_s=1000.0)
        job = await site.submit()
        await asyncio.sleep(0.1)
        site.shelf.error = ServiceError("backend_down", "away")
        await asyncio.sleep(1.5)
        assert (site.paced.num_inside, site.paced.num_cut) == (0, 1)
        site.shelf.error = None
        assert (await site.until_settled(job)).attempt > 1

    play(tmp_path, scene)


def test_what_is_over_is_swept_with_its_blobs(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front(sweep_s=5.0, keep_answers_s=50.0, keep_blobs_s=500.0)
        await site.shelf.put("jobs/of-nobody/upload", b"orphan")
        await site.shelf.put("answers/key", b"remembered")
        job = await site.submit()
        await site.until_settled(job)
        await asyncio.sleep(60)
        assert set(site.shelf.blobs) > {"jobs/of-nobody/upload"}
        assert "answers/key" not in site.shelf.blobs
        await asyncio.sleep(TTL_S)
        assert set(site.shelf.blobs) == {"jobs/of-nobody/upload"}
        with pytest.raises(ServiceError, match="job_expired"):
            await site.jobs.get(job.job_id, owner=OWNER)
        await asyncio.sleep(500)
        assert site.shelf.blobs == {}

    play(tmp_path, scene)
