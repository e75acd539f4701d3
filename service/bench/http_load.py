"""A closed-loop HTTP load: each client sends its next request when its answer is there. Little CPU of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Load:
    """One request, sent again and again by `num_clients` for `seconds`.

    `on_body` takes the body of each answer with status 200.
    """

    host: str
    port: int
    path: str
    body: bytes
    content_type: str
    num_clients: int
    seconds: float
    on_body: Callable[[bytes], object] = len


@dataclass(slots=True)
class LoadResult:
    """Seconds of each answer with status 200, how many had another, and how long it all took."""

    latencies_s: list[float] = field(default_factory=list)
    num_refused: int = 0
    elapsed_s: float = 0.0


async def drive(load: Load) -> LoadResult:
    """Run a load; every client makes at least one request."""
    result = LoadResult()
    started_s = time.perf_counter()
    await asyncio.gather(*(_client(load, result, started_s + load.seconds) for _ in range(load.num_clients)))
    result.elapsed_s = time.perf_counter() - started_s
    return result


async def _client(load: Load, result: LoadResult, until_s: float) -> None:
    head = f"POST {load.path} HTTP/1.1\r\nHost: {load.host}\r\nContent-Type: {load.content_type}\r\n"
    head += f"Cache-Control: no-cache\r\nContent-Length: {len(load.body)}\r\n\r\n"  # the work is what is measured
    message = head.encode() + load.body
    reader, writer = await asyncio.open_connection(load.host, load.port)
    try:
        while True:
            started_s = time.perf_counter()
            writer.write(message)
            await writer.drain()
            status, must_close, answer = await _read_answer(reader)
            if status == 200:
                result.latencies_s.append(time.perf_counter() - started_s)
                load.on_body(answer)
            else:
                result.num_refused += 1
                await asyncio.sleep(0.05)
            if time.perf_counter() >= until_s:
                return
            if must_close:
                writer.close()
                reader, writer = await asyncio.open_connection(load.host, load.port)
    finally:
        writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status of the next answer, whether the server closes the connection, and the body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.split(b":", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(headers[b"content-length"]))
    return status, headers.get(b"connection", b"").strip() == b"close", body
