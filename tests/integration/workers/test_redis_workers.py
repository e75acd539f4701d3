"""Real worker processes on a real Redis, and what happens when any of them dies."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis
from support.components.chunks import make_chunk
from support.components.queue_parts import front, local_parts
from support.servers.poison import POISON_COLOUR, is_poisonous
from support.servers.redis_server import RedisServer
from support.servers.worker_process import WorkerProcess, keep_alive
from support.waiting import until

from service.domain.chunk import Chunk
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.predictors.fake import FakePredictor, FakeTiming
from service.redis.chunk_source import ChunkSourcePolicy, RedisChunkSource
from service.redis.link import RedisLink, dead_letter_name, payload_name, stream_name
from service.redis.segmenter import RedisSegmenter
from service.telemetry.metrics import Metrics

pytestmark = pytest.mark.redis
HANG_S = 120
NUM_CLIENTS = 6
LEASE_S = 1.0
StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", is_durable=True) as made:
        yield made


@pytest.fixture
def start_worker(server: RedisServer) -> Iterator[StartWorker]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(WorkerProcess(server.url, lease_s=LEASE_S, **options))


@pytest.fixture
async def expected(tmp_path: Path) -> AsyncIterator[Callable[[Chunk], object]]:
    """The frames that a single process answers."""
    async with local_parts(tmp_path, FakeTiming()) as parts:

        async def frames_of(chunk: Chunk) -> tuple[FrameMasks, ...]:
            return (await parts.segmenter.segment(chunk)).frames

        yield frames_of


class Load:
    """Clients that ask without pause and check each answer against the single process's."""

    def __init__(self, segmenter: RedisSegmenter, expected: Callable[[Chunk], object]) -> None:
        self._segmenter = segmenter
        self._expected = expected
        self._numbers = itertools.count()
        self._stopping = False
        self.num_right = 0
        self.num_wrong = 0
        self.failures: list[BaseException] = []
        self.answered_at_s: list[float] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(NUM_CLIENTS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        while not self._stopping:
            seed = next(self._numbers)
            chunk = make_chunk(
                seed=seed % 50, num_samples=1 + seed % 4, request_id=f"r{seed}", is_interactive=seed % 3 > 0
            )
            try:
                answer = await self._segmenter.segment(chunk)
            except ServiceError as error:
                self.failures.append(error)
                await asyncio.sleep(0.05)
                continue
            self.answered_at_s.append(time.monotonic())
            if answer.frames == await self._expected(chunk):  # type: ignore[misc]
                self.num_right += 1
            else:
                self.num_wrong += 1

    async def more(self, number: int) -> None:
        """Wait for so many further answers."""
        goal = len(self.answered_at_s) + number
        while len(self.answered_at_s) < goal:
            await asyncio.sleep(0.01)


async def kill_under_load(
    kills: int, server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> Load:
    workers = [start_worker(), start_worker()]
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S + 20 * kills):
        for worker in workers:
            await worker.wait_ready()
        async with Load(segmenter, expected) as load:
            for number in range(kills):
                await load.more(20)
                victim = workers[number % 2]
                victim.kill()
                await asyncio.sleep(0.1)
                victim.start()
                await victim.wait_ready()
                await load.more(1)
    return load


async def test_no_chunk_is_lost_when_workers_are_killed(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> None:
    load = await kill_under_load(3, server, start_worker, expected)
    assert load.failures == []
    assert load.num_wrong == 0
    assert load.num_right > 60


async def test_the_only_worker_may_be_restarted(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> None:
    worker = start_worker(batch_s=0.3)
    chunk = make_chunk(seed=7)
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S):
        asking = asyncio.create_task(segmenter.segment(chunk))
        await wait_for_pending(server, segmenter, 1)
        worker.kill()
        worker.start()
        answer = await asking
    assert answer.frames == await expected(chunk)  # type: ignore[misc]


async def test_a_wedged_worker_is_replaced_and_its_late_answer_dropped(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> None:
    wedged = start_worker(batch_s=0.5)
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S):
        chunk = make_chunk(seed=3)
        asking = asyncio.create_task(segmenter.segment(chunk))
        await wait_for_pending(server, segmenter, 1)
        wedged.signal(signal.SIGSTOP)
        other = start_worker()
        answer = await asking
        assert answer.frames == await expected(chunk)  # type: ignore[misc]
        assert await other.metric("redeliveries_total") == 1
        wedged.signal(signal.SIGCONT)
        await wedged.wait_ready()
        later = make_chunk(seed=4)
        assert (await segmenter.segment(later)).frames == await expected(later)  # type: ignore[misc]
        await asyncio.sleep(1.0)  # the wedged batch ends and finds its lease gone
        assert segmenter.num_dropped_replies == 0
        assert await waiting_entries(server, segmenter) == 0


async def test_redis_may_be_killed_and_restarted(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> None:
    worker = start_worker()
    async with front(server.url, outage_grace_s=0.5) as segmenter, asyncio.timeout(HANG_S):
        await worker.wait_ready()
        async with Load(segmenter, expected) as load:
            await load.more(20)
            server.kill()
            await until(lambda: load.failures)
            with pytest.raises(ServiceError) as caught:
                await segmenter.segment(make_chunk())
            assert caught.value.code == "backend_down"
            server.start()
            await load.more(20)
    assert {error.code for error in load.failures if isinstance(error, ServiceError)} == {"backend_down"}
    assert len(load.failures) == len([error for error in load.failures if isinstance(error, ServiceError)])
    assert load.num_wrong == 0


async def test_redis_may_forget_everything(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> None:
    worker = start_worker(batch_s=0.05)
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S), Redis.from_url(server.url) as client:
        await worker.wait_ready()
        async with Load(segmenter, expected) as load:
            for _ in range(3):
                await load.more(10)
                await client.flushall()
            await load.more(20)
    assert load.failures == []
    assert load.num_wrong == 0


@pytest.mark.parametrize("poison_hangs", [False, True], ids=["kills", "hangs"])
async def test_a_poisoned_clip_is_given_up_and_its_neighbours_are_answered(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object], poison_hangs: bool
) -> None:
    workers = [start_worker(poison_hangs=poison_hangs) for _ in range(2)]
    poison = make_chunk(seed=1, request_id="poisoned")
    poison.samples.frames[1, 0, 0] = POISON_COLOUR
    healthy = [make_chunk(seed=seed, request_id=f"healthy{seed}") for seed in range(8)]
    # A busy machine starts a worker in half a minute, and both are gone more than once.
    async with front(server.url, worker_grace_s=HANG_S) as segmenter, asyncio.timeout(3 * HANG_S):
        for worker in workers:
            await worker.wait_ready()
        keeper = asyncio.create_task(keep_alive(workers))
        asking = [asyncio.create_task(segmenter.segment(chunk)) for chunk in [*healthy[:4], poison, *healthy[4:]]]
        results = await asyncio.gather(*asking, return_exceptions=True)
        keeper.cancel()
        async with Redis.from_url(server.url) as client:
            checkpoint = (await segmenter.describe()).checkpoint
            letters = await client.xrange(dead_letter_name(checkpoint))
    failure = results.pop(4)
    assert isinstance(failure, ServiceError)
    assert failure.code == "poison_clip"
    for chunk, answer in zip(healthy, results, strict=True):
        assert answer.frames == await expected(chunk)  # type: ignore[misc, union-attr]
    assert [fields[b"request_id"] for _, fields in letters] == [b"poisoned"]
    assert b"alone" in letters[0][1][b"reason"]


async def test_a_chunk_that_is_given_back_outlives_its_worker(server: RedisServer) -> None:
    info = FakePredictor().info
    async with AsyncExitStack() as stack:
        link = RedisLink(server.url, clock=time.monotonic)
        stack.push_async_callback(link.aclose)
        first, second = (
            RedisChunkSource(
                link,
                link,
                ChunkSourcePolicy(worker=name, lease_s=LEASE_S),
                checkpoint=info.checkpoint,
                metrics=Metrics(),
                clock=time.monotonic,
            )
            for name in ("first", "second")
        )
        await first.announce(info)
        segmenter = await stack.enter_async_context(front(server.url))
        asking = asyncio.create_task(segmenter.segment(make_chunk(request_id="given back")))
        stack.callback(asking.cancel)
        async with asyncio.timeout(HANG_S):
            while not (taken := await first.take(64, wait_s=0.1)):
                pass
            await first.release(taken[0])
            await first.withdraw()
            again = await second.reclaim()
    assert again is not None
    assert (again.chunk.request_id, again.is_suspect) == ("given back", True)


async def test_a_cancelled_chunk_leaves_nothing_behind(server: RedisServer, start_worker: StartWorker) -> None:
    worker = start_worker(batch_s=0.5)
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S), Redis.from_url(server.url) as client:
        await worker.wait_ready()
        asking = [asyncio.create_task(segmenter.segment(make_chunk(seed=seed, num_samples=32))) for seed in range(6)]
        await wait_for_pending(server, segmenter, 1)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        while await waiting_entries(server, segmenter) or await client.keys(payload_name("*")):
            await asyncio.sleep(0.05)
        before = await worker.metric("samples_total")
        await asyncio.sleep(1.0)
        assert await worker.metric("samples_total") - before <= 8  # the batch on the device, no other


async def test_a_worker_drains_on_sigterm(
    server: RedisServer, start_worker: StartWorker, expected: Callable[[Chunk], object]
) -> None:
    workers = [start_worker(), start_worker()]
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S):
        for worker in workers:
            await worker.wait_ready()
        async with Load(segmenter, expected) as load:
            await load.more(10)
            workers[0].signal(signal.SIGTERM)
            assert await asyncio.to_thread(workers[0].wait) == 0
            await load.more(10)
        assert await workers[1].metric("redeliveries_total") == 0
    assert load.failures == []
    assert load.num_wrong == 0


async def test_without_workers_a_front_says_so(server: RedisServer, start_worker: StartWorker) -> None:
    async with front(server.url, is_served=False, worker_grace_s=0.3) as segmenter, asyncio.timeout(HANG_S):
        with pytest.raises(ServiceError) as caught:
            await segmenter.describe()
        assert caught.value.code == "warming_up"
        assert not segmenter.is_ready()
        worker = start_worker()
        await until(segmenter.is_ready)
        await segmenter.segment(make_chunk())
        worker.kill()
        with pytest.raises(ServiceError) as caught:
            await segmenter.segment(make_chunk())
        assert caught.value.code == "backend_down"


async def test_a_full_redis_is_an_overload(server: RedisServer, start_worker: StartWorker) -> None:
    worker = start_worker()
    async with AsyncExitStack() as stack:
        segmenter = await stack.enter_async_context(front(server.url))
        client = await stack.enter_async_context(Redis.from_url(server.url))
        await worker.wait_ready()
        await client.config_set("maxmemory", "1mb")
        with pytest.raises(ServiceError) as caught:
            await segmenter.segment(make_chunk())
        assert caught.value.code == "queue_full"
        await client.config_set("maxmemory", "0")
        async with asyncio.timeout(HANG_S):
            await segmenter.segment(make_chunk())


async def test_outstanding_bytes_are_bounded(server: RedisServer, start_worker: StartWorker) -> None:
    start_worker(batch_s=0.05)
    chunks = [make_chunk(seed=seed, num_samples=4) for seed in range(12)]
    bound = 3 * (chunks[0].samples.num_bytes + 4096)
    async with front(server.url, max_outstanding_bytes=bound) as segmenter, Redis.from_url(server.url) as client:
        async with asyncio.timeout(HANG_S):
            asking = [asyncio.create_task(segmenter.segment(chunk)) for chunk in chunks]
            most = 0
            while not all(task.done() for task in asking):
                most = max(most, len(await client.keys(payload_name("*"))))
                await asyncio.sleep(0.005)
            await asyncio.gather(*asking)
    assert 1 <= most <= 3


async def test_interactive_chunks_go_first(server: RedisServer, start_worker: StartWorker) -> None:
    worker = start_worker(batch_s=0.1)
    finished: list[str] = []
    async with front(server.url) as segmenter, asyncio.timeout(HANG_S):
        await worker.wait_ready()

        async def ask(name: str, *, is_interactive: bool) -> None:
            await segmenter.segment(make_chunk(seed=1, num_samples=8, is_interactive=is_interactive))
            finished.append(name)

        jobs = [asyncio.create_task(ask("job", is_interactive=False)) for _ in range(10)]
        await wait_for_pending(server, segmenter, 1)
        await ask("person", is_interactive=True)
        await asyncio.gather(*jobs)
    assert finished.index("person") < 6


async def waiting_entries(server: RedisServer, segmenter: RedisSegmenter) -> int:
    checkpoint = (await segmenter.describe()).checkpoint
    async with Redis.from_url(server.url) as client:
        return sum([await client.xlen(stream_name(checkpoint, is_interactive=flag)) for flag in (True, False)])


async def wait_for_pending(server: RedisServer, segmenter: RedisSegmenter, number: int) -> None:
    """Until workers hold so many chunks."""
    checkpoint = (await segmenter.describe()).checkpoint
    async with Redis.from_url(server.url) as client:
        while True:
            held = 0
            for flag in (True, False):
                groups = await client.xinfo_groups(stream_name(checkpoint, is_interactive=flag))
                held += sum(group["pending"] for group in groups)
            if held >= number:
                return
            await asyncio.sleep(0.01)


def test_poison_is_not_made_by_chance() -> None:
    for seed in range(50):
        frames = make_chunk(seed=seed).samples.frames
        assert not is_poisonous(frames)
    frames[1, 0, 0] = POISON_COLOUR
    assert is_poisonous(frames)
