"""One suite for every JobStore: in memory, over a folder, over a real Redis."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.components.queue_parts import REDIS_PARAM
from support.servers.redis_server import RedisServer

from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.ports import JobStore
from service.redis.jobs import RedisJobStore
from service.redis.link import RedisLink
from service.storage.jobs import FolderJobStore
from service.storage.room import StateRoom

TTL_S = 0.2
LEASE_S = 0.2
HANG_S = 30


@pytest.fixture(params=["memory", "folder", REDIS_PARAM])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobStore]:
    if request.param != "redis":
        folder = tmp_path / "jobs" if request.param == "folder" else None
        yield FolderJobStore(folder, ttl_s=TTL_S, wall_clock=time.time)
        return
    async with redis_store(tmp_path, ttl_s=TTL_S) as made:
        yield made


@asynccontextmanager
async def redis_store(folder: Path, *, ttl_s: float) -> AsyncIterator[RedisJobStore]:
    with RedisServer(folder / "redis") as server:
        link = RedisLink(server.url, clock=time.monotonic)
        yield RedisJobStore(link, ttl_s=ttl_s, lease_s=LEASE_S)
        await link.aclose()


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def a_job(number: int = 1) -> Job:
    return Job(
        job_id=f"{number:032x}",
        owner="owner",
        request_id=f"request {number}",
        options=SegmentOptions(fps=2.0, labels=("a", "b"), end_s=3.0),
        created_at_s=time.time(),
        webhook="https://example.com/",
        webhook_secret="s",
    )


async def test_a_job_comes_back_whole(store: JobStore) -> None:
    job = a_job()
    await store.add(job)
    assert await store.get(job.job_id) == job
    assert await store.get("0" * 32) is None
    assert await store.num_waiting() == 1


async def test_the_oldest_is_claimed_first_and_once(store: JobStore) -> None:
    for number in range(3):
        await store.add(a_job(number))
    claimed = [await store.claim(f"holder {number}") for number in range(4)]
    assert [job and job.request_id for job in claimed] == ["request 0", "request 1", "request 2", None]
    assert await store.num_waiting() == 0


async def test_only_the_holder_writes(store: JobStore) -> None:
    await store.add(a_job())
    job = await store.claim("me")
    assert job is not None
    running = replace(job, state="running", progress=0.5, part_starts=(0, 4), num_lines=9)
    assert not await store.save(running, holder="other")
    assert await store.save(running, holder="me")
    assert await store.get(job.job_id) == running


async def test_what_is_given_back_is_claimed_next(store: JobStore) -> None:
    for number in range(2):
        await store.add(a_job(number))
    job = await store.claim("me")
    assert job is not None
    await store.requeue(replace(job, attempt=1), holder="me")
    again = await store.claim("other")
    assert again == replace(job, attempt=1)
    assert not await store.save(job, holder="me")


async def test_an_erased_job_is_nobodys(store: JobStore) -> None:
    for number in range(2):
        await store.add(a_job(number))
    job = await store.claim("me")
    assert job is not None
    await store.erase(job.job_id)
    await store.erase(a_job(1).job_id)
    assert await store.get(job.job_id) is None
    assert not await store.save(job, holder="me")
    assert await store.claim("me") is None
    assert not await store.has_expired(job.job_id)


async def test_ended_jobs_are_kept_for_their_time(store: JobStore) -> None:
    await store.add(a_job())
    job = await store.claim("me")
    assert job is not None
    done = replace(job, state="done", ended_at_s=time.time())
    await store.settle(done, holder="me")
    assert await store.sweep() == []
    assert await store.get(job.job_id) == done
    assert await store.claim("other") is None
    async with asyncio.timeout(HANG_S):
        while not (over := await store.sweep()):
            await asyncio.sleep(0.02)
    assert over == [job.job_id]
    assert await store.get(job.job_id) is None
    assert await store.has_expired(job.job_id)


@pytest.mark.redis
async def test_a_dead_holders_job_is_claimed_by_another(tmp_path: Path) -> None:
    async with redis_store(tmp_path, ttl_s=60) as store:
        await store.add(a_job())
        job = await store.claim("dead")
        assert job is not None
        assert await store.claim("other") is None
        async with asyncio.timeout(HANG_S):
            while (again := await store.claim("other")) is None:
                await asyncio.sleep(0.02)
        assert again == job
        assert not await store.save(job, holder="dead")


async def test_a_folder_outlives_its_process(tmp_path: Path) -> None:
    first = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time)
    for number in range(4):
        await first.add(replace(a_job(number), created_at_s=float(number)))
    running = await first.claim("me")
    ended = await first.claim("me")
    assert running is not None
    assert ended is not None
    await first.save(replace(running, state="running"), holder="me")
    await first.settle(replace(ended, state="done", ended_at_s=time.time()), holder="me")
    await first.erase(a_job(3).job_id)
    (tmp_path / "broken.json").write_bytes(b"{")
    second = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time)
    found = await second.get(ended.job_id)
    assert found is not None
    assert found.state == "done"
    claimed = [await second.claim("me") for _ in range(3)]
    assert [job and (job.request_id, job.state) for job in claimed] == [
        ("request 0", "running"),
        ("request 2", "queued"),
        None,
    ]


async def test_an_end_that_was_not_told_is_claimed_after_a_restart(tmp_path: Path) -> None:
    first = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time)
    for number in range(2):
        await first.add(a_job(number))
        job = await first.claim("me")
        assert job is not None
        done = replace(job, state="done", ended_at_s=time.time())
        await (first.save(done, holder="me") if number else first.settle(done, holder="me"))
    second = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time)
    untold = await second.claim("me")
    assert untold is not None
    assert (untold.request_id, untold.state) == ("request 1", "done")
    assert await second.claim("me") is None
    await second.settle(untold, holder="me")
    assert await FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time).claim("me") is None


async def test_an_erased_job_does_not_come_back_from_a_late_write(tmp_path: Path) -> None:
    store = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time)
    await store.add(a_job())
    job = await store.claim("me")
    assert job is not None
    for is_cut in (False, True):
        saving = asyncio.create_task(store.save(replace(job, progress=0.5), holder="me"))
        await asyncio.sleep(0)
        await store.erase(job.job_id)
        if is_cut:
            saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        assert os.listdir(tmp_path) == []
        await store.add(job)
        assert await store.claim("me") == job


async def test_what_is_told_survives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees a state only after it is on the disk, else a killed process would take back what it told."""
    store = FolderJobStore(tmp_path, ttl_s=TTL_S, wall_clock=time.time)
    job = a_job()
    await store.add(job)
    await store.claim("holder")
    may_write, real = threading.Event(), os.fsync

    def slow_fsync(file: int) -> None:
        may_write.wait(HANG_S)
        real(file)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    further = replace(job, state="running", progress=0.5, num_lines=10)
    saving = asyncio.create_task(store.save(further, holder="holder"))
    await asyncio.sleep(0.05)
    for _ in range(2):
        told = await store.get(job.job_id)
        restarted = await FolderJobStore(tmp_path, ttl_s=TTL_S, wall_clock=time.time).get(job.job_id)
        assert told == restarted == (further if may_write.is_set() else job)
        may_write.set()
        assert await saving


async def test_job_files_are_counted_and_a_job_without_room_is_refused(tmp_path: Path) -> None:
    room = StateRoom([tmp_path], max_bytes=1500)
    store = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time, room=room)

    async def fill() -> None:
        for number in range(10):
            await store.add(a_job(number))

    with pytest.raises(ServiceError, match="storage_full"):
        await fill()
    num_jobs = await store.num_waiting()
    assert 0 < num_jobs < 9
    assert len(os.listdir(tmp_path)) == num_jobs
    while (job := await store.claim("me")) is not None:  # what was accepted is written, however full the room is
        assert await store.save(replace(job, part_starts=tuple(range(300))), holder="me")
        await store.settle(replace(job, state="done", ended_at_s=time.time()), holder="me")
        assert room.used_bytes == folder_bytes(tmp_path)
    again = StateRoom([tmp_path], max_bytes=1500)
    reloaded = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time, room=again)
    for left in range(num_jobs):
        await reloaded.erase(a_job(left).job_id)
    assert again.used_bytes == 0


async def test_an_aborted_submission_leaves_no_file(tmp_path: Path) -> None:
    store = FolderJobStore(tmp_path, ttl_s=60, wall_clock=time.time)
    adding = asyncio.create_task(store.add(a_job()))
    await asyncio.sleep(0)
    adding.cancel()
    await asyncio.gather(adding, return_exceptions=True)
    assert os.listdir(tmp_path) == []
    assert await store.num_waiting() == 0


@pytest.mark.redis
async def test_a_job_whose_adding_is_repeated_is_queued_once(tmp_path: Path) -> None:
    async with redis_store(tmp_path, ttl_s=60) as store:
        for _ in range(2):
            await store.add(a_job())
        assert await store.num_waiting() == 1
