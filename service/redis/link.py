"""A connection to one Redis, its failures as ServiceErrors, and the names of every key of the chunk queue.

redis-py is used directly. FastStream was weighed: its batch and reclaim subscribers cover the easy half, but intake by
room, lease renewal, redelivery alone, deletion on acknowledgement, cancellation and replies per front would still be
written by hand beside it, against a framework that owns the loop which must know how much room the batcher has.
Scripts (Lua) rather than the newer XACKDEL and XREADGROUP CLAIM keep one code path from Redis 7.0 to the newest.

Cluster mode: the keys of one queue share the hash tag of its checkpoint, so each script touches one slot; payload and
reply keys carry no tag and spread. This client speaks to one endpoint (a single server, a Sentinel-managed or a proxied
one); a sharded cluster behind plain nodes would need `RedisCluster` here and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.aio.deadlines import heeding
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.redis.wire import VERSION

logger = logging.getLogger(__name__)

PREFIX = f"aves:{VERSION}:"
GROUP = "workers"
WORKERS_KEY = PREFIX + "{workers}"
RETRY_AFTER_S = 2.0
_CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 5.0
"""A blocking read must be shorter than this."""


class GroupMissingError(Exception):
    """The stream or its group is not there: Redis came back without its data."""


class GroupExistsError(Exception):
    """The group was made by another worker already."""


class RedisLink:
    """One Redis as a component sees it: `call` with bytes back, and whether it answered last time."""

    def __init__(self, url: str, *, clock: Clock, max_connections: int = 32) -> None:
        self._clock = clock
        pool = BlockingConnectionPool.from_url(
            url,
            timeout=SOCKET_TIMEOUT_S,
            protocol=2,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            max_connections=max_connections,
            # one more try covers a pooled connection that died idle; what is added twice is dropped by its reference
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        )
        self._client = Redis.from_pool(pool)
        # replies as they come over the wire: one shape in every version of client and server
        self._client.response_callbacks.clear()
        self._down_since_s: float | None = None

    @property
    def down_for_s(self) -> float:
        """Seconds since Redis stopped answering; 0 while it answers."""
        return 0.0 if self._down_since_s is None else max(1e-9, self._clock() - self._down_since_s)

    async def call(self, *words: str | bytes | float) -> Any:
        """One command's reply.

        Raises:
            ServiceError: `backend_down` if Redis does not answer, `queue_full` if its memory is at the limit.
            GroupMissingError: the consumer group is gone.
        """
        replies = await self.pipeline([words])
        return replies[0]

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        """The replies of several commands sent in one go, in order; raises as `call` for the first that failed."""
        try:
            replies = await heeding(self._send(commands))
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise self._went_down(error) from error
        except RedisError as error:
            raise _translate(error) from error
        self._down_since_s = None
        return replies

    async def script(self, source: str, keys: Sequence[str], words: Sequence[str | bytes | float]) -> Any:
        """Run a Lua script atomically; Redis caches it by its hash, and gets the source again after a restart."""
        try:
            reply = await heeding(self._run(source, keys, words))
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise self._went_down(error) from error
        except RedisError as error:
            raise _translate(error) from error
        self._down_since_s = None
        return reply

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _send(self, commands: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
        pipe = self._client.pipeline(transaction=False)
        for words in commands:
            pipe.execute_command(*words)
        return list(await pipe.execute())

    async def _run(self, source: str, keys: Sequence[str], words: Sequence[str | bytes | float]) -> Any:
        return await self._client.register_script(source)(keys=list(keys), args=list(words))

    def _went_down(self, error: Exception) -> ServiceError:
        if self._down_since_s is None:
            self._down_since_s = self._clock()
            logger.warning("redis does not answer", extra={"reason": type(error).__name__})
        return backend_down()


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A stream entry's fields from Redis' alternating list."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def backend_down() -> ServiceError:
    """Redis or every worker behind it is unreachable."""
    return ServiceError(
        "backend_down", "The queue to the workers is unreachable; try again.", retry_after_s=RETRY_AFTER_S
    )


def _translate(error: RedisError) -> Exception:
    text = str(error)
    if "NOGROUP" in text or "no such key" in text.lower():
        return GroupMissingError()
    if "BUSYGROUP" in text:
        return GroupExistsError()
    if isinstance(error, OutOfMemoryError):
        return ServiceError("queue_full", "The queue to the workers is out of memory.", retry_after_s=RETRY_AFTER_S)
    logger.error("redis refused a command", extra={"reason": text[:200]})
    return backend_down()


def stream_name(checkpoint: str, *, is_interactive: bool) -> str:
    """The stream of a checkpoint's chunks; people waiting and jobs have one each."""
    return f"{_tagged(checkpoint)}:{'interactive' if is_interactive else 'batch'}"


def dead_letter_name(checkpoint: str) -> str:
    """The stream of chunks given up on, with the reason."""
    return f"{_tagged(checkpoint)}:dead"


def alone_name(stream: str, entry_id: str) -> str:
    """The set of a chunk's runs alone that began and did not end; in the same slot as its stream."""
    return f"{stream}:alone-runs:{entry_id}"


def payload_name(ref: str) -> str:
    """The key of a chunk's bytes."""
    return f"{PREFIX}payload:{ref}"


def replies_name(front: str) -> str:
    """The stream of answers to one front."""
    return f"{PREFIX}replies:{front}"


def worker_name(worker: str) -> str:
    """The key under which a worker publishes its model while it lives."""
    return f"{WORKERS_KEY}:{worker}"


def _tagged(checkpoint: str) -> str:
    digest = checkpoint.removeprefix("sha256:")[:32]
    return f"{PREFIX}chunks:{{{digest}}}"
