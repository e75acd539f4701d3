"""Bounds of HTTP connections."""

from __future__ import annotations

from dataclasses import dataclass

PROBE_PATHS = frozenset(f"{prefix}/{name}" for prefix in ("", "/v1") for name in ("livez", "readyz", "metrics"))


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """Bounds of connections.

    Attributes:
        max_connections: connections at once. Beyond it the connection that has been without a request for longest is
            closed; where all have one, only `num_reserved` more are accepted, for probes.
        num_reserved: connections beyond `max_connections`, which may ask for `PROBE_PATHS` only.
        max_head_bytes: limit of a request's head, and of each line of its chunk framing and trailers; all of these
            lines may take as much, and as much as the body beside. 64 KiB is what large proxies allow, a thousand times
            what is usual.
        head_timeout_s: time for a head to arrive.
        last_head_s: time for the first head of a connection when the server stops; its request is then answered.
        linger_s: after an early answer the rest of the request's body is still read and discarded for this long, so
            that a client that sends before it reads sees the answer instead of a reset.
        send_buffer_bytes: what the kernel may hold of an answer. Its own choice of up to 4 MiB a connection would
            hide for long that a reader has stalled.
        unsent_bytes: what may wait of an answer, once in the kernel and once in this process, that the network does
            not take yet. A fast reader is limited by `send_buffer_bytes` alone, because bytes on their way do not
            count; for a stalled one little is prepared in vain.
    """

    max_connections: int = 1024
    num_reserved: int = 16
    max_head_bytes: int = 64 * 1024
    head_timeout_s: float = 10.0
    last_head_s: float = 0.5
    linger_s: float = 10.0
    send_buffer_bytes: int = 256 * 1024
    unsent_bytes: int = 16 * 1024
