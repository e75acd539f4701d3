"""What is sent when a job has ended: its result to `result_url`, then its webhook."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.components.job_site import LEASE_S, OWNER, Site, play
from support.components.leased_jobs import FrontView
from support.virtual_time import virtual_clock
from support.waiting import until

from service.domain.errors import ServiceError
from service.domain.job import Job, ResultPut


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


@pytest.mark.parametrize("keeps_clip", [False, True])
def test_a_job_has_its_clip_until_its_overlay_was_sent(tmp_path: Path, keeps_clip: bool) -> None:
    """Also behind the crash of its sender; afterwards only if it was to be kept."""

    async def scene(site: Site) -> None:
        site.send_s = 3 * LEASE_S
        cut = FrontView(site.shared)
        site.front(view=cut)
        job = await site.submit(result_url="https://store.example/key", result_format="overlay", keeps_clip=keeps_clip)
        plain = await site.submit(result_url="https://store.example/plain")
        await until(lambda: len(site.sent) == 2, hang_s=1000, pause_s=0.1)
        cut.is_down = True
        assert has_clip(site, job)
        assert not has_clip(site, plain)
        async with site.jobs.clip(site.shared.jobs[job.job_id], site.spool, max_bytes=1000) as clip:
            assert clip.size > 0
        site.front()
        await until(lambda: len(site.sent) == 4, hang_s=1000, pause_s=0.1)
        assert has_clip(site, job)
        ended = await site.until_settled(job)
        assert ended.result_put == ResultPut("sent")
        assert has_clip(site, ended) is keeps_clip

    def has_clip(site: Site, job: Job) -> bool:
        return job.upload_name() in site.shelf.blobs

    play(tmp_path, scene)


def test_a_failed_job_has_no_overlay_and_no_clip(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        site.paced.failures = [ServiceError("broken", "x")]
        site.front()
        job = await site.submit(result_url="https://store.example/key", result_format="overlay")
        ended = await site.until_settled(job)
        assert ended.state == "failed"
        assert job.upload_name() not in site.shelf.blobs

    play(tmp_path, scene)
