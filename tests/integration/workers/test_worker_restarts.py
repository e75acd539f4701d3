"""`worker_restarts_total`: a crashed worker that is live again is counted once over all fronts, a clean stop never."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from support.components.queue_parts import worker
from support.servers.redis_server import RedisServer
from support.servers.worker_process import WorkerProcess

from service.redis.link import WORKERS_KEY, RedisLink
from service.redis.model_directory import WorkerDirectory
from service.telemetry.metrics import Metrics

pytestmark = pytest.mark.redis
HANG_S = 60
LEASE_S = 3.0


class WatchingFront:
    """What a front does every second: look at the directory."""

    def __init__(self, link: RedisLink) -> None:
        self.metrics = Metrics()
        self.directory = WorkerDirectory(link, metrics=self.metrics)

    @property
    def num_restarts(self) -> float:
        return self.metrics.registry.get_sample_value("avesformer_worker_restarts_total") or 0.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as made:
        yield made


@asynccontextmanager
async def link_to(server: RedisServer) -> AsyncIterator[RedisLink]:
    link = RedisLink(server.url, clock=time.monotonic)
    yield link
    await link.aclose()


def has_counted(fronts: list[WatchingFront], num_restarts: int) -> bool:
    return sum(front.num_restarts for front in fronts) >= num_restarts


async def watch_until(fronts: list[WatchingFront], is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not is_so():
            await asyncio.gather(*(front.directory.live_models() for front in fronts))
            await asyncio.sleep(0.05)


async def test_a_killed_process_that_is_back_counts_once(server: RedisServer) -> None:
    async with link_to(server) as link:
        fronts = [WatchingFront(link), WatchingFront(link)]
        with WorkerProcess(server.url, lease_s=LEASE_S) as process:
            await process.wait_ready()
            for num_restarts in (1, 2):
                process.kill()
                process.start()
                await process.wait_ready()
                await watch_until(fronts, partial(has_counted, fronts, num_restarts))
            process.signal(signal.SIGTERM)
            process.wait()
            await asyncio.gather(*(front.directory.live_models() for front in fronts))
            assert sum(front.num_restarts for front in fronts) == 2


async def test_a_clean_stop_is_no_restart(server: RedisServer) -> None:
    async with link_to(server) as link:
        front = WatchingFront(link)
        for _ in range(2):
            async with worker(server.url):
                while not await front.directory.live_models():
                    await asyncio.sleep(0.02)
        assert not await front.directory.live_models()
        assert not await link.call("SMEMBERS", WORKERS_KEY)
        assert front.num_restarts == 0


async def test_a_device_that_failed_counts_when_its_worker_is_back(server: RedisServer) -> None:
    async with link_to(server) as link:
        front = WatchingFront(link)
        async with worker(server.url) as consumer:
            while not await front.directory.live_models():
                await asyncio.sleep(0.02)
            consumer.stop(has_failed=True)
        assert not await front.directory.live_models()
        assert front.num_restarts == 0
        async with worker(server.url, name="another"):
            while not await front.directory.live_models():
                await asyncio.sleep(0.02)
            assert front.num_restarts == 0
        async with worker(server.url):
            await watch_until([front], lambda: front.num_restarts == 1)
