"""The job runner on virtual time: leases of fronts, second tries, erasure, webhooks, events, sweeping."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from support.components.job_site import FRAME_S, LEASE_S, NUM_FRAMES, OWNER, TTL_S, Site, play
from support.components.leased_jobs import FrontView
from support.virtual_time import virtual_clock
from support.waiting import until

from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut
from service.jobs.api import JobEvent
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


def test_so_many_run_at_once_and_a_dead_webhook_holds_none_up(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        async def never(job: Job) -> None:
            await asyncio.sleep(70)
            site.told.append(job)

        site.front(num_parallel=2, tell=never)
        begun_s = virtual_clock()
        slow = [await site.submit(webhook="https://dead.example/") for _ in range(4)]
        plain = await site.submit()
        await site.until_settled(plain)
        assert site.paced.most_inside == 2
        assert virtual_clock() - begun_s < 20
        for job in slow:
            await site.until_settled(job)
        assert len(site.told) == 4

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


def test_an_end_that_was_not_told_is_told_by_the_next(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        async def stuck(job: Job) -> None:
            await asyncio.Event().wait()

        first = site.front(tell=stuck)
        job = await site.submit(webhook="https://example.com/")
        async with asyncio.timeout(1000):
            while site.shared.jobs[job.job_id].state != "done":
                await asyncio.sleep(0.1)
        await first.aclose()
        assert site.shared.jobs[job.job_id].state == "done"
        site.front()
        ended = await site.until_settled(job)
        assert (ended.attempt, len(site.paced.contexts)) == (1, 1)
        assert [told.job_id for told in site.told] == [job.job_id]

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


def test_a_result_is_sent_once_before_the_webhook(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.front()
        job = await site.submit(webhook="https://example.com/", result_url="https://store.example/key?signature=x")
        assert job.result_put == ResultPut("waiting")
        ended = await site.until_settled(job)
        assert [sent.result_url for sent in site.sent] == ["https://store.example/key?signature=x"]
        assert [told.result_put for told in site.told] == [ResultPut("sent")]
        assert (ended.result_url, ended.result_put) == (None, ResultPut("sent"))

    play(tmp_path, scene)


def test_a_result_whose_sender_died_is_sent_by_another_front(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.send_s = 3 * LEASE_S
        cut = FrontView(site.shared)
        site.front(view=cut)
        job = await site.submit(result_url="https://store.example/key")
        await until(lambda: bool(site.sent), hang_s=1000, pause_s=0.1)
        cut.is_down = True
        site.front()
        ended = await site.until_settled(job)
        assert len(site.sent) == 2
        assert (ended.attempt, ended.result_put) == (1, ResultPut("sent"))

    play(tmp_path, scene)


def test_deleting_a_job_cancels_the_sending(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.send_s = 1000.0
        site.front()
        job = await site.submit(result_url="https://store.example/key")
        await until(lambda: bool(site.sent), hang_s=1000, pause_s=0.1)
        begun_s = virtual_clock()
        await site.jobs.erase(job.job_id, owner=OWNER)
        await until(lambda: site.num_unsent == 1, hang_s=1000, pause_s=0.1)
        assert virtual_clock() - begun_s < 10

    play(tmp_path, scene)


def test_a_fault_of_the_sender_does_not_repeat_the_job(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.send_failure = RuntimeError("a fault")
        site.front()
        ended = await site.until_settled(await site.submit(result_url="https://store.example/key"))
        assert (ended.state, ended.attempt) == ("done", 1)
        assert ended.result_put == ResultPut("failed", "Something failed inside the service.")

    play(tmp_path, scene)
