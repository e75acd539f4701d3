"""Bound and count the bytes that wait for a client to read them, in a connection's transport and in the kernel."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

from service.rest.connection.policy import ConnectionPolicy

# The option of Linux, which Python 3.11 does not name (linux/tcp.h).
_TCP_NOTSENT_LOWAT = 25


def bound_writes(transport: asyncio.Transport, policy: ConnectionPolicy) -> None:
    """Bound what waits for the client in the kernel and in the transport."""
    plain = transport.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, policy.send_buffer_bytes)
    plain.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, policy.unsent_bytes)
    transport.set_write_buffer_limits(high=policy.unsent_bytes)


def num_unread_bytes(transport: asyncio.Transport | None) -> int:
    """Return the bytes in our buffer and in the kernel's that the client has not read; 0 for a closed connection."""
    if transport is None or transport.is_closing():
        return 0
    waiting = transport.get_write_buffer_size()
    try:
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return waiting
    return waiting + int(struct.unpack("i", queued)[0])
