"""Fail-over: a primary becomes a replica under open connections, and the address leads to the new primary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.components.chunks import make_chunk
from support.components.queue_parts import front, worker
from support.fleets.fault_proxy import FaultProxy
from support.servers.redis_server import RedisServer

from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.predictors.fake import FakeTiming
from service.redis.jobs import RedisJobStore
from service.redis.keys import RedisKeyStore
from service.redis.link import RedisLink

pytestmark = pytest.mark.redis
HANG_S = 60
WRITING_SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"
NESTED_SCRIPT = """
local answer = redis.pcall('SET', KEYS[1], ARGV[1])
if type(answer) == 'table' and answer.err then return redis.error_reply('ERR Error running script: -' .. answer.err) end
return redis.call('GET', KEYS[1])
"""


class Pair:
    """Two servers and an address that leads to the primary."""

    def __init__(self, servers: tuple[RedisServer, RedisServer], proxy: FaultProxy) -> None:
        self.old, self.new = servers
        self.proxy = proxy
        self.url = f"redis://127.0.0.1:{proxy.port}/0"

    def demote(self) -> None:
        """The replica is promoted and the old primary follows it; nobody closes a connection."""
        self.new.promote()
        self.old.follow(self.new.port)

    def fail_over(self) -> None:
        self.proxy.point_to(self.new.port)
        self.demote()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    servers = (RedisServer(tmp_path / "a"), RedisServer(tmp_path / "b"))
    for server in servers:
        server.start()
    try:
        servers[1].follow(servers[0].port)
        with FaultProxy(servers[0].port) as proxy:
            yield Pair(servers, proxy)
    finally:
        for server in servers:
            server.stop()


@pytest.fixture
async def link(pair: Pair) -> AsyncIterator[RedisLink]:
    made = RedisLink(pair.url, clock=time.monotonic)
    yield made
    await made.aclose()


async def fill_pool(link: RedisLink, num: int = 5) -> None:
    """Open several connections; they stay in the pool."""
    await asyncio.gather(*(link.call("BLPOP", f"empty-{n}", 0.05) for n in range(num)))


async def test_commands_pipelines_and_scripts_reach_the_new_primary(pair: Pair, link: RedisLink) -> None:
    await fill_pool(link)
    await link.script(WRITING_SCRIPT, ["loaded"], ["before"])
    pair.fail_over()
    assert await link.script(WRITING_SCRIPT, ["a"], ["1"]) == b"1"
    assert await link.script(NESTED_SCRIPT, ["b"], ["2"]) == b"2"
    assert await link.call("SET", "c", "3") == b"OK"
    assert await link.pipeline([("GET", "a"), ("SET", "d", "4"), ("GET", "d")]) == [b"1", b"OK", b"4"]
    assert link.down_for_s == 0


@pytest.mark.parametrize("script", [WRITING_SCRIPT, NESTED_SCRIPT], ids=["READONLY", "error of a script"])
async def test_many_at_once_all_succeed(pair: Pair, link: RedisLink, script: str) -> None:
    await fill_pool(link, 20)
    pair.fail_over()
    answers = await asyncio.gather(*(link.script(script, [f"k{n}"], [n]) for n in range(40)))
    assert answers == [str(n).encode() for n in range(40)]


async def test_a_blocked_read_is_sent_again(pair: Pair, link: RedisLink) -> None:
    reading = asyncio.create_task(link.call("BLPOP", "list", 4))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(pair.fail_over)
    await link.call("RPUSH", "list", "late")
    async with asyncio.timeout(HANG_S):
        assert await reading == [b"list", b"late"]


async def test_a_node_that_stays_demoted_is_down_until_the_address_moves(pair: Pair, link: RedisLink) -> None:
    await fill_pool(link)
    pair.demote()
    for _ in range(3):
        with pytest.raises(ServiceError) as caught:
            await link.script(WRITING_SCRIPT, ["a"], ["1"])
        assert caught.value.code == "backend_down"
    with pytest.raises(ServiceError):
        await link.check_primary()
    assert link.down_for_s > 0
    pair.proxy.point_to(pair.new.port)
    assert await link.script(WRITING_SCRIPT, ["a"], ["1"]) == b"1"
    assert link.down_for_s == 0


async def test_stores_go_on(pair: Pair, link: RedisLink) -> None:
    jobs, keys = RedisJobStore(link, ttl_s=60, lease_s=10), RedisKeyStore(link)
    job = Job("ab" * 16, "owner", "request", SegmentOptions(), created_at_s=1.0)
    await jobs.add(job)
    await link.call("WAIT", 1, 5000)  # replication is asynchronous: what a fail-over forgets is Redis' business
    await asyncio.to_thread(pair.fail_over)
    assert await jobs.claim("me") == job
    assert await jobs.save(job, holder="me")
    assert await keys.begin("scope", "print", lease_s=5) is None


async def test_fronts_and_workers_go_on(pair: Pair) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(pair.url, timing=FakeTiming()))
        segmenter = await stack.enter_async_context(front(pair.url))
        await segmenter.segment(make_chunk())
        await asyncio.to_thread(pair.fail_over)
        async with asyncio.timeout(HANG_S):
            answer = await segmenter.segment(make_chunk(num_samples=3))
        assert len(answer.frames) == 3


async def test_an_idle_front_without_workers_leaves_the_demoted_node(pair: Pair) -> None:
    """It only reads; the demoted node, cut off from the new primary, would show it no worker for ever."""
    async with front(pair.url, is_served=False) as segmenter:
        await asyncio.sleep(0.3)
        pair.proxy.point_to(pair.new.port)
        pair.new.promote()
        pair.old.follow_nobody()
        async with worker(pair.new.url), asyncio.timeout(HANG_S):
            while not segmenter.is_ready():
                await asyncio.sleep(0.05)
