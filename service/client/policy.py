"""Settings of a client: key, timeouts, retries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.domain.errors import ServiceError

# Bytes of a piece of an upload: large enough for few messages, small enough for flow control to react early.
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """Settings of a client.

    Attributes:
        api_key: sent as a bearer token.
        timeout_s: deadline of each attempt; None leaves it to the server.
        connect_timeout_s: longest wait for a connection, and for the answer to a ping on one.
        attempts: total attempts. Only retryable errors and lost connections are retried.
        first_backoff_s, max_backoff_s: delays double from the first; a server's Retry-After or push-back takes
            precedence.
        max_retry_after_s: a longer delay requested by the server ends the retries.
        keepalive_s: silence during a call after which a gRPC server is pinged; it must answer within
            `connect_timeout_s`. The service accepts at most one ping in 10 s.
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
        """Return the seconds to wait before the next attempt; None if there is none. `attempt` counts from 1."""
        if attempt >= self.attempts or not error.spec.is_retryable:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= self.max_retry_after_s else None
        backoff_s: float = min(self.max_backoff_s, self.first_backoff_s * 2.0 ** min(attempt - 1, 64))
        return backoff_s * (0.5 + 0.5 * self.jitter())
