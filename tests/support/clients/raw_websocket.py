"""A WebSocket client that reads only when it is told to, with small buffers of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TEXT, BINARY, PING = 1, 2, 9
_FINAL, _MASKED = 0x80, 0x80
_HANDSHAKE = (
    b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def client_frame(opcode: int, payload: bytes = b"") -> bytes:
    """One whole message of a client; its mask is zero."""
    length = len(payload)
    if length < 126:
        head = bytes([_FINAL | opcode, _MASKED | length])
    elif length < 2**16:
        head = bytes([_FINAL | opcode, _MASKED | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([_FINAL | opcode, _MASKED | 127]) + length.to_bytes(8, "big")
    return head + bytes(4) + payload


@asynccontextmanager
async def switched(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection after the handshake. Its buffers hold a few kilobytes."""
    plain = socket.socket()
    plain.setblocking(False)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
    try:
        writer.write(_HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()
