"""Clients that hurt: slow ones of every sort, floods, requests that come at a fixed rate whatever happens."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_GUARD_S = 120.0


@dataclass(slots=True)
class Outcome:
    """Answers by status, and the seconds that each status took."""

    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        """Count an answer; status 0 is a connection that broke."""
        self.seconds.setdefault(status, []).append(seconds)

    def num(self, status: int) -> int:
        """Answers of a status."""
        return len(self.seconds.get(status, []))

    def statuses(self) -> dict[str, int]:
        """Answers by status."""
        return {str(status): len(found) for status, found in sorted(self.seconds.items())}

    def quantile_s(self, status: int, share: float) -> float:
        """The given quantile of the seconds of a status; 0 without answers."""
        found = sorted(self.seconds.get(status, []))
        return found[min(len(found) - 1, int(share * len(found)))] if found else 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and the clip that they carry."""

    port: int
    clip: bytes
    path: str = "/segment"

    def message(self, *, key: str = "", length: int | None = None, may_use_cache: bool = False) -> bytes:
        """A whole request, or only its head where a longer body is announced."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            "Host: x",
            "Content-Type: video/mp4",
            *([] if may_use_cache else ["Cache-Control: no-cache"]),
            f"Content-Length: {len(self.clip) if length is None else length}",
            *([f"Authorization: Bearer {key}"] if key else []),
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        return head + (self.clip if length is None else b"")


async def ask(target: Target, outcome: Outcome, *, key: str = "") -> int:
    """Send one request on a connection of its own; returns its status, 0 where the connection broke."""
    since_s = time.perf_counter()
    status = 0
    try:
        async with asyncio.timeout(_GUARD_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            try:
                writer.write(target.message(key=key))
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                headers = dict(line.split(b":", 1) for line in lines[1:] if line)
                await reader.readexactly(int(headers[b"content-length"]))
                status = int(lines[0].split()[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        status = 0
    outcome.add(status, time.perf_counter() - since_s)
    return status


async def clients(target: Target, outcome: Outcome, *, num: int, seconds: float, key: str = "") -> None:
    """`num` clients that each send the next request when the last is answered."""
    until_s = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < until_s:
            if await ask(target, outcome, key=key) != 200:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(num)))


async def arrivals(target: Target, outcome: Outcome, *, per_s: float, seconds: float) -> None:
    """Requests at a fixed rate, whether earlier ones are answered or not (an open loop)."""
    tasks = []
    started_s = time.perf_counter()
    for number in range(round(per_s * seconds)):
        await asyncio.sleep(max(0.0, started_s + number / per_s - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(target, outcome)))
    await asyncio.gather(*tasks)


SORTS = ("heads", "bodies", "silent")


@asynccontextmanager
async def slow_clients(target: Target, sort: str, *, num: int) -> AsyncIterator[Counter[str]]:
    """`num` slow clients of a sort while the body runs; counts the connections that the service ended.

    `heads` send a byte of a head a second, `bodies` 20 kB a second of a long upload, `silent` open a
    connection and do nothing, `readers` ask for a long answer and read 180 bytes a second of it.
    """
    ended: Counter[str] = Counter()
    tasks = [asyncio.create_task(_slow(target, sort, ended)) for _ in range(num)]
    try:
        yield ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _slow(target: Target, sort: str, ended: Counter[str]) -> None:
    plain = socket.socket()
    plain.setblocking(False)
    if sort == "readers":
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", target.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
    try:
        if sort == "heads":
            await _drip(writer, b"POST /segment HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 10_000, num_bytes=1)
        elif sort == "bodies":
            writer.write(target.message(length=100_000_000))
            await _drip(writer, bytes(100_000_000), num_bytes=20_000)
        elif sort == "readers":
            writer.write(target.message(may_use_cache=True))
            while await reader.read(180):
                await asyncio.sleep(1.0)
        else:
            await reader.read(1)
        ended["ended"] += 1
    except OSError:
        ended["ended"] += 1
    finally:
        writer.transport.abort()


async def _drip(writer: asyncio.StreamWriter, data: bytes, *, num_bytes: int) -> None:
    view = memoryview(data)
    while view and not writer.transport.is_closing():
        writer.write(view[:num_bytes])
        view = view[num_bytes:]
        await writer.drain()
        await asyncio.sleep(1.0)
