"""How a client calls: who it is, how long it waits, how it tries again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.domain.errors import ServiceError

# Pieces of a file on its way up: few enough messages, small enough for flow control to act early.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """Settings of a client.

    Attributes:
        api_key: sent as a bearer token.
        timeout_s: deadline of each try; None leaves it to the server.
        connect_timeout_s: longest wait for a connection, and for a sign of life on one.
        attempts: tries in all. Only what the server calls retryable is tried again, and lost connections.
        first_backoff_s, max_backoff_s: waits double from the first; a server's Retry-After or push-back goes before.
        max_retry_after_s: a server that asks for more is not waited for.
        keepalive_s: a gRPC server that is silent for so long during a call is asked whether it is still there; it must
            answer within `connect_timeout_s`. The service takes no more than one such question in 10 s.
        ca_file: PEM certificates to trust instead of the system's.
    """

    api_key: str | None = None
    timeout_s: float | None = None
    connect_timeout_s: float = 10.0
    attempts: int = 5
    first_backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    max_retry_after_s: float = 120.0
    keepalive_s: float = 30.0
    ca_file: Path | None = None
    jitter: Callable[[], float] = field(default=random.random, repr=False)

    def retry_delay_s(self, error: ServiceError, *, attempt: int) -> float | None:
        """Seconds to wait before the next try, or None where there is none; `attempt` counts from 1."""
        if attempt >= self.attempts or not error.spec.is_retryable:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.max_retry_after_s else None
        backoff_s: float = min(self.max_backoff_s, self.first_backoff_s * 2.0 ** min(attempt - 1, 64))
        return backoff_s * (0.5 + 0.5 * self.jitter())
