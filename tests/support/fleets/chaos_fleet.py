"""Two fronts, two workers and both Redis roles as real processes, and clients that never rest.

Workers run the fake predictor; what every clip's answer must be is asked of a single process without Redis first.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis import Redis
from support.inputs.clips import make_clip
from support.servers.redis_server import RedisServer
from support.servers.service_process import ServiceProcess
from support.servers.worker_process import WorkerProcess
from support.waiting import until

from service.redis.link import GROUP, PREFIX, fields_of
from service.wiring.worker import worker_name

LEASE_S = 10.0
NUM_CLIENTS = 6
# When something hangs.
GUARD_S = 300.0
SOUNDING = frozenset(range(2, 60, 2))
_HEADERS = {"Content-Type": "video/mp4", "Cache-Control": "no-cache"}


@dataclass
class ChaosFleet:
    """Started by `chaos_fleet`."""

    folder: Path
    stack: ExitStack
    jobs: RedisServer
    data: RedisServer
    workers: list[WorkerProcess]
    clips: list[bytes]
    expected: list[Any]
    fronts: list[ServiceProcess] = field(default_factory=list)

    def start_front(self) -> ServiceProcess:
        """One more front; returns when it is ready, for which it must see a worker."""
        redis = {"redis_url": self.jobs.url, "redis_data_url": self.data.url, "lease_s": LEASE_S}
        process = ServiceProcess(state_dir=self.folder / "state", decode_processes=1, log_level="error", **redis)
        self.fronts.append(self.stack.enter_context(process))
        return process

    def held_by(self, worker: WorkerProcess) -> set[str]:
        """References of the chunks that a worker has taken and not ended."""
        with Redis(port=self.jobs.port) as client:
            client.response_callbacks.clear()
            found: set[str] = set()
            for stream in client.execute_command("KEYS", f"{PREFIX}chunks:*"):
                if not stream.endswith((b":interactive", b":batch")):
                    continue
                for entry_id, owner, *_ in client.execute_command("XPENDING", stream, GROUP, "-", "+", 1000):
                    if not owner.decode().startswith(worker_name(worker.port) + "/"):
                        continue
                    entries = client.execute_command("XRANGE", stream, entry_id, entry_id)
                    found.update(fields_of(fields)[b"ref"].decode() for _, fields in entries)
            return found

    def num_left(self) -> int:
        """Entries of chunks and of answers that lie in Redis."""
        left = 0
        for server in (self.jobs, self.data):
            with Redis(port=server.port) as client:
                names = [*client.keys(f"{PREFIX}chunks:*"), *client.keys(f"{PREFIX}replies:*")]
                streams = [name for name in names if client.type(name) == b"stream" and not name.endswith(b":dead")]
                left += sum(client.xlen(name) for name in streams)
        return left


@contextmanager
def chaos_fleet(folder: Path) -> Iterator[ChaosFleet]:
    """Start everything and learn the answers."""
    clips = [make_clip(num_frames=10 + 5 * number, flash_frames=SOUNDING) for number in range(4)]
    with ServiceProcess(decode_processes=1, log_level="error") as alone, alone.client() as client:
        answers = [client.post("/v1/segment?fps=native", content=clip, headers=_HEADERS).json() for clip in clips]
    expected = [answer["frames"] for answer in answers]
    assert any(frame["masks"] for frame in expected[0]), "answers without masks would prove nothing"
    with ExitStack() as stack:
        jobs, data = RedisServer(folder / "jobs", is_durable=True), RedisServer(folder / "data")
        workers = [WorkerProcess(jobs.url, data_url=data.url, lease_s=LEASE_S, batch_s=0.05) for _ in range(2)]
        for process in (jobs, data, *workers):
            stack.enter_context(process)
        fleet = ChaosFleet(folder, stack, jobs, data, workers, clips, expected)
        for _ in range(2):
            fleet.start_front()
        for worker in workers:
            asyncio.run(worker.wait_ready())
        yield fleet


class ChaosLoad:
    """Clients that send a clip when the last one is answered, each to its own front; every answer is compared."""

    def __init__(self, fleet: ChaosFleet) -> None:
        self._fleet = fleet
        self._fronts = list(fleet.fronts)
        self._numbers = itertools.count()
        self._is_stopping = False
        self.under_way: set[int] = set()
        self.answered_at_s: list[float] = []
        self.num_wrong = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> ChaosLoad:
        self._client = httpx.AsyncClient(timeout=GUARD_S)
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(NUM_CLIENTS)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._is_stopping = True
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def _ask(self, client_no: int) -> None:
        front = self._fronts[client_no % len(self._fronts)]
        while not self._is_stopping:
            number = next(self._numbers)
            self.under_way.add(number)
            code = await ask(self._client, front, self._fleet, number % len(self._fleet.clips))
            self.under_way.discard(number)
            if code == "right":
                self.answered_at_s.append(time.monotonic())
            elif code == "wrong":
                self.num_wrong += 1
            else:
                self.failures.append(code)
                await asyncio.sleep(0.1)

    async def more(self, number: int) -> None:
        """Wait for so many further right answers."""
        goal = len(self.answered_at_s) + number
        await until(lambda: len(self.answered_at_s) >= goal, hang_s=GUARD_S)

    async def settled(self, numbers: set[int]) -> None:
        """Wait until none of these requests is under way."""
        await until(lambda: not (numbers & self.under_way), hang_s=GUARD_S)


async def ask(client: httpx.AsyncClient, front: ServiceProcess, fleet: ChaosFleet, clip_no: int) -> str:
    """One request: `right`, `wrong`, the code of its error, or `lost` where no answer came."""
    try:
        answer = await client.post(f"{front.url}/v1/segment?fps=native", content=fleet.clips[clip_no], headers=_HEADERS)
    except httpx.TransportError:
        return "lost"
    if answer.status_code != 200:
        return str(answer.json()["code"])
    return "right" if answer.json()["frames"] == fleet.expected[clip_no] else "wrong"


async def submit(client: httpx.AsyncClient, front: ServiceProcess, clip: bytes) -> str:
    """Hand in a job; where it is, once it is accepted."""
    answer = await client.post(f"{front.url}/v1/jobs?fps=native", content=clip, headers=_HEADERS)
    assert answer.status_code == 202, answer.text
    return str(answer.headers["location"])


async def job_frames(client: httpx.AsyncClient, front: ServiceProcess, location: str) -> object:
    """A job's frames when it has ended, or what became of it."""
    async with asyncio.timeout(GUARD_S):
        while True:
            state = (await client.get(front.url + location)).json()
            if state.get("state") in ("done", "failed"):
                break
            await asyncio.sleep(0.1)
    answer = (await client.get(f"{front.url}{location}/result")).json()
    return answer.get("frames", answer)
