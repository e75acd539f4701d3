"""Raw bytes to and from an HTTP server on the loopback."""

from __future__ import annotations

import asyncio
import json

from support.servers.rest_front import HANG_GUARD_S


async def exchange(port: int, data: bytes, *, eof: bool = False) -> bytes:
    """Send raw bytes, read until the server closes. A server that cuts the connection ends the sending."""
    async with asyncio.timeout(HANG_GUARD_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        if eof:
            writer.write_eof()
        answer = await reader.read()
        writer.transport.abort()
        return answer


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer with a Content-Length."""
    async with asyncio.timeout(HANG_GUARD_S):
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        return int(head.split(b" ")[1]), await reader.readexactly(int(lengths[0]))


def problem_of(raw: bytes) -> dict[str, object]:
    """The problem document of a raw answer, whose status line must agree with it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, raw[:500]
    problem: dict[str, object] = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {problem['status']} ".encode())
    return problem


def request_head(length: int, *extra: str) -> bytes:
    """The head of a raw upload of `length` bytes."""
    lines = ["POST /v1/segment HTTP/1.1", "Host: x", "Content-Type: video/mp4", f"Content-Length: {length}", *extra]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunked_head(*extra: str) -> bytes:
    """The head of a raw upload in chunks."""
    return request_head(0, *extra).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
