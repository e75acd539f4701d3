"""A front, a worker and both Redis roles as real processes, with a FaultProxy on every link between them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis import Redis
from support.fleets.fault_proxy import FaultProxy
from support.inputs.clips import make_clip
from support.servers.redis_server import RedisServer
from support.servers.service_process import ServiceProcess
from support.servers.worker_process import WorkerProcess
from support.waiting import wait_until

from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.codec.answer_json import encode_frame
from service.domain.errors import CODES, ServiceError
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks

LINKS = ("client-http", "client-grpc", "front-jobs", "front-data", "worker-jobs", "worker-data")
RIGHT = "right"
# The connection broke before an answer or an error came: only on the link that is at fault.
LOST = "lost"
NUM_CLIPS = 4
_GUARD_S = 60.0
# What a client allows its deadline for the way there and back; then it goes. Front and Redis get no such end.
_CLIENT_GRACE_S = 6.0


@dataclass
class LinkedFleet:
    """Started by `linked_fleet`."""

    front: ServiceProcess
    proxies: dict[str, FaultProxy]
    servers: tuple[RedisServer, RedisServer]
    clips: list[bytes]
    expected: list[list[dict[str, Any]]] = field(default_factory=list)

    @contextmanager
    def fault(self, link: str, **fault: Any) -> Iterator[FaultProxy]:
        """Set a fault on a link; it is removed when the block ends."""
        proxy = self.proxies[link]
        for name, value in fault.items():
            setattr(proxy, name, value)
        try:
            yield proxy
        finally:
            proxy.heal()

    def ask_rest(self, number: int, *, timeout_s: float, key: str | None = None) -> str:
        """One JSON request; RIGHT, or the code that it failed with. A wrong answer fails the test."""
        headers = {"X-Request-Timeout": f"{timeout_s:g}", "Cache-Control": "no-cache"}
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{self.proxies['client-http'].port}/v1/segment?fps=native",
                content=self.clips[number],
                headers={"Content-Type": "video/mp4", **headers},
                timeout=timeout_s + _CLIENT_GRACE_S,
            )
            body = answer.json()
        except httpx.TransportError:
            return LOST
        if answer.status_code != 200:
            return documented(body["code"])
        assert body["frames"] == self.expected[number]
        return RIGHT

    def ask_grpc(self, number: int, *, timeout_s: float) -> str:
        """The same over gRPC, through the client of this project."""
        target = f"127.0.0.1:{self.proxies['client-grpc'].port}"
        try:
            with GrpcClient(target, ClientPolicy(timeout_s=timeout_s, attempts=1)) as client:
                answer = client.segment(self.clips[number], SegmentOptions(fps="native"))
        except ServiceError as error:
            return documented(error.code)
        assert [shape_of(frame) for frame in answer.frames] == self.expected[number]
        return RIGHT

    def ask_all(self, *, timeout_s: float, guard_s: float) -> list[str]:
        """Every clip over both transports at once; `guard_s` is when somebody hangs."""
        with ThreadPoolExecutor(2 * NUM_CLIPS) as pool:
            rest = [pool.submit(self.ask_rest, number, timeout_s=timeout_s) for number in range(NUM_CLIPS)]
            grpc = [pool.submit(self.ask_grpc, number, timeout_s=timeout_s) for number in range(NUM_CLIPS)]
            end_s = time.monotonic() + guard_s
            return [future.result(max(0.0, end_s - time.monotonic())) for future in (*rest, *grpc)]

    def submit(self, number: int) -> str:
        """Hand in a job over a healthy link: its location, or the code that it was refused with."""
        answer = httpx.post(
            f"{self.front.url}/v1/jobs?fps=native",
            content=self.clips[number],
            headers={"Content-Type": "video/mp4", "Cache-Control": "no-cache"},
            timeout=_GUARD_S,
        )
        return answer.headers["location"] if answer.status_code == 202 else documented(answer.json()["code"])

    def check_job(self, number: int, location: str) -> None:
        """Wait for a job and compare its answer."""

        def state() -> str:
            return str(httpx.get(self.front.url + location, timeout=_GUARD_S).json().get("state", ""))

        wait_until(lambda: state() in ("done", "failed"))
        answer = httpx.get(f"{self.front.url}{location}/result", timeout=_GUARD_S)
        assert answer.status_code == 200, answer.text
        assert answer.json()["frames"] == self.expected[number]

    def wait_until_well(self) -> None:
        """Until both transports answer rightly again, and nothing is left of what went before."""
        wait_until(lambda: self.ask_rest(0, timeout_s=10.0) == RIGHT)
        wait_until(lambda: self.ask_grpc(0, timeout_s=10.0) == RIGHT)
        wait_until(lambda: self.num_left() == 0)

    def num_left(self) -> int:
        """Requests in flight, and entries that wait in the queue."""
        lines = httpx.get(f"{self.front.url}/metrics", timeout=_GUARD_S).text.splitlines()
        inside = [line for line in lines if line.startswith("avesformer_requests_in_flight")]
        with Redis(port=self.servers[0].port) as client:
            streams = [name for name in client.keys("aves:*") if client.type(name) == b"stream"]
            waiting = sum(client.xlen(name) for name in streams)
        return int(sum(float(line.split()[-1]) for line in inside)) + waiting


@contextmanager
def linked_fleet(folder: Path) -> Iterator[LinkedFleet]:
    """Start everything, healthy; the expected answers are those given then."""
    clips = [make_clip(num_frames=20 + 4 * number, flash_frames=frozenset(range(5, 60, 2))) for number in range(4)]
    with ExitStack() as stack:
        servers = RedisServer(folder / "jobs"), RedisServer(folder / "data")
        for server in servers:
            stack.enter_context(server)
        proxies: dict[str, FaultProxy] = {}
        for who in ("front", "worker"):
            for role, server in zip(("jobs", "data"), servers, strict=True):
                proxies[f"{who}-{role}"] = stack.enter_context(FaultProxy(server.port))
        url = {name: f"redis://127.0.0.1:{proxy.port}/0" for name, proxy in proxies.items()}
        stack.enter_context(WorkerProcess(url["worker-jobs"], data_url=url["worker-data"], lease_s=1.0, batch_s=0.01))
        redis = {"redis_url": url["front-jobs"], "redis_data_url": url["front-data"], "lease_s": 1.0}
        front = stack.enter_context(ServiceProcess(state_dir=folder / "state", **redis))
        targets = {"client-http": front.url, "client-grpc": front.grpc_target}
        for link, target in targets.items():
            proxies[link] = stack.enter_context(FaultProxy(int(target.rpartition(":")[2])))
        fleet = LinkedFleet(front, proxies, servers, clips)
        for clip in clips:
            answer = httpx.post(
                f"{front.url}/v1/segment?fps=native",
                content=clip,
                headers={"Content-Type": "video/mp4"},
                timeout=_GUARD_S,
            )
            fleet.expected.append(answer.json()["frames"])
        assert any(frame["masks"] for frame in fleet.expected[0]), "answers without masks would prove nothing"
        fleet.wait_until_well()
        yield fleet


def shape_of(frame: FrameMasks) -> dict[str, Any]:
    """As JSON has it."""
    shape: dict[str, Any] = json.loads(encode_frame(frame))
    return shape


def documented(code: str) -> str:
    """A code of the table that a fault of a link may cause."""
    assert code in CODES, code
    assert code not in ("internal", "poison_clip", "broken", "truncated"), code
    return code
