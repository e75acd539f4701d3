"""Everything that Redis is asked over a cluster of one node, which refuses keys of different slots in one command.

What cluster mode still lacks is a client that follows MOVED (`service/redis/link.py`); the keys are ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from support.components.chunks import make_chunk
from support.components.queue_parts import front, worker
from support.servers.redis_server import RedisServer

from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.ports import KeyRecord
from service.redis.cache import RedisCache
from service.redis.jobs import RedisJobStore
from service.redis.keys import RedisKeyStore
from service.redis.link import RedisLink

pytestmark = pytest.mark.redis
HANG_S = 60
ID = "ab" * 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("cluster"), is_cluster=True) as made:
        yield made


@pytest.fixture
async def link(server: RedisServer) -> AsyncIterator[RedisLink]:
    made = RedisLink(server.url, clock=time.monotonic)
    yield made
    await made.aclose()


async def test_the_server_does_refuse_keys_of_two_slots(link: RedisLink) -> None:
    with pytest.raises(ServiceError):
        await link.call("MGET", "one", "two")


async def test_jobs_live_in_one_slot(link: RedisLink) -> None:
    store = RedisJobStore(link, ttl_s=0.01, lease_s=10)
    job = Job(ID, "owner", "request", SegmentOptions(), created_at_s=1.0)
    await store.add(job)
    assert await store.num_waiting() == 1
    assert await store.claim("me") == job
    assert await store.save(replace(job, progress=0.5), holder="me")
    await store.requeue(job, holder="me")
    assert await store.claim("me") == job
    await store.settle(replace(job, state="done", ended_at_s=2.0), holder="me")
    async with asyncio.timeout(HANG_S):
        while not await store.sweep():
            await asyncio.sleep(0.01)
    assert await store.get(ID) is None
    await store.add(replace(job, job_id="cd" * 16))
    await store.erase("cd" * 16)
    assert await store.claim("me") is None


async def test_keys_and_cache_live_in_one_slot_each(link: RedisLink) -> None:
    keys = RedisKeyStore(link)
    assert await keys.begin("scope", "print", lease_s=60) is None
    await keys.renew("scope", lease_s=60)
    await keys.finish("scope", KeyRecord("print", b"reply"), ttl_s=60)
    assert await keys.begin("scope", "print", lease_s=60) == KeyRecord("print", b"reply")
    await keys.forget("scope")
    cache = RedisCache(link, max_bytes=100, ttl_s=60)
    for name in ("a", "b", "c"):
        await cache.put(name, b"x" * 40)
    assert [await cache.get(name) for name in ("a", "b", "c")] == [None, b"x" * 40, b"x" * 40]


async def test_chunks_and_workers_live_in_one_slot_each(server: RedisServer) -> None:
    workers = worker(server.url, name="one"), worker(server.url, name="two")
    async with asyncio.timeout(HANG_S), workers[0], workers[1], front(server.url) as segmenter:
        chunks = [make_chunk(seed=seed, is_interactive=seed % 2 == 0) for seed in range(8)]
        answers = await asyncio.gather(*(segmenter.segment(chunk) for chunk in chunks))
    assert [len(answer.frames) for answer in answers] == [len(chunk.samples) for chunk in chunks]
