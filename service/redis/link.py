"""Connection to one Redis that raises ServiceErrors, and the names of all keys of the chunk queue.

redis-py is used directly. FastStream was considered: it has batch and reclaim subscribers, but intake by free capacity,
lease renewal, solo redelivery, deletion on acknowledgement, cancellation and replies per front would still be custom
code inside a framework that owns the loop. Lua scripts are used instead of the newer XACKDEL and XREADGROUP CLAIM, so
that one code path works from Redis 7.0 on.

Fail-over: a node that was demoted to a replica keeps its connections open and refuses writes with READONLY. The link
treats this as a lost connection: it reopens all pooled connections before their next use, so that they reach the node
that the address now resolves to, and sends the command again.

Cluster mode: the keys of one queue share the hash tag of its checkpoint, so each script touches one slot; payload and
reply keys have no tag, so they are distributed over all slots. This client uses one endpoint; a sharded cluster without
a proxy would need `RedisCluster` here and no other change.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.aio.waits import cancel_reliably
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.redis_address import RedisAddress, parse_redis_address
from service.redis.wire import VERSION

logger = logging.getLogger(__name__)

PREFIX = f"aves:{VERSION}:"
GROUP = "workers"
WORKERS_KEY = PREFIX + "{workers}"
RETRY_AFTER_S = 2.0
_CONNECT_TIMEOUT_S = 2.0
# Timeout of one command, seconds; a blocking read must be shorter.
SOCKET_TIMEOUT_S = 5.0
# A key that never exists. Deleting it changes nothing, but a replica refuses the command.
_NO_KEY = PREFIX + "none"


class GroupMissingError(Exception):
    """The stream or its group is missing, because Redis has lost its data."""


class GroupExistsError(Exception):
    """Another worker has created the group already."""


class _ReopeningPool(BlockingConnectionPool):
    """Connection pool that can be requested to reopen every connection before its next use."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.epoch = 0
        self._epochs: WeakKeyDictionary[AbstractConnection, int] = WeakKeyDictionary()

    def reopen_all(self) -> None:
        """Reopen connections before their next use; those in use finish their command first."""
        self.epoch += 1

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect, after closing a connection of an earlier epoch. Called by redis-py with the connection taken."""
        if self._epochs.get(connection) != self.epoch:
            self._epochs[connection] = self.epoch
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)


class RedisLink:
    """Client of one Redis: sends commands, returns bytes, and tracks whether Redis responds.

    Args:
        url: see `service.domain.redis_address`.
        clock: seconds, monotonic.
        max_connections: size of the pool; further calls wait for a connection.

    Raises:
        ValueError: the URL is invalid.
    """

    def __init__(self, url: str, *, clock: Clock, max_connections: int = 32) -> None:
        self._clock = clock
        self._pool = _ReopeningPool(
            **_connection_options(parse_redis_address(url)),
            timeout=SOCKET_TIMEOUT_S,
            protocol=2,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            max_connections=max_connections,
            # One retry covers a pooled connection that was closed while idle. An entry added twice has the same
            # reference, so the second one is dropped.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        )
        self._client = Redis.from_pool(self._pool)
        # Raw replies have the same shape in all versions of client and server.
        self._client.response_callbacks.clear()
        self._down_since_s: float | None = None

    @property
    def down_for_s(self) -> float:
        """Seconds since Redis stopped responding; 0 while it responds."""
        return 0.0 if self._down_since_s is None else max(1e-9, self._clock() - self._down_since_s)

    async def call(self, *words: str | bytes | float) -> Any:
        """Return the reply of one command.

        Raises:
            ServiceError: `backend_down` if Redis does not respond, `queue_full` if its memory is at the limit.
            GroupMissingError: the consumer group is gone.
        """
        replies = await self.pipeline([words])
        return replies[0]

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        """Send several commands in one go and return their replies in order; raise as `call` for the first failure."""
        replies: list[Any] = await self._try(lambda: self._send(commands))
        return replies

    async def script(self, source: str, keys: Sequence[str], words: Sequence[str | bytes | float]) -> Any:
        """Run a Lua script atomically. Sends its hash first, and its source if the node does not know the hash."""
        return await self._try(lambda: self._run(source, keys, words))

    async def check_primary(self) -> None:
        """Raise `backend_down` if this node refuses writes; a demoted node still answers reads."""
        await self.call("DEL", _NO_KEY)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _try(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send; retry once over new connections if the node is no longer the primary."""
        epoch = self._pool.epoch
        try:
            try:
                reply = await cancel_reliably(_coroutine(send))
            except RedisError as error:
                if not _is_demoted(error):
                    raise
                if self._pool.epoch == epoch:
                    logger.warning("redis is no longer the primary; reconnecting")
                    self._pool.reopen_all()
                reply = await cancel_reliably(_coroutine(send))
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise self._went_down(error) from error
        except RedisError as error:
            raise self._went_down(error) if _is_demoted(error) else _translate(error) from error
        self._down_since_s = None
        return reply

    async def _send(self, commands: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        if len(commands) == 1:
            return [await self._client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
        pipe = self._client.pipeline(transaction=False)
        for words in commands:
            pipe.execute_command(*words)
        return list(await pipe.execute())

    async def _run(self, source: str, keys: Sequence[str], words: Sequence[str | bytes | float]) -> Any:
        # Send EVAL rather than SCRIPT LOAD and EVALSHA: during a fail-over two commands may reach different nodes.
        arguments = (len(keys), *keys, *words)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._client.execute_command("EVALSHA", sha, *arguments)  # type: ignore[no-untyped-call]
        except NoScriptError:
            return await self._client.execute_command("EVAL", source, *arguments)  # type: ignore[no-untyped-call]

    def _went_down(self, error: Exception) -> ServiceError:
        if self._down_since_s is None:
            self._down_since_s = self._clock()
            logger.warning("redis does not respond", extra={"reason": type(error).__name__})
        return backend_down()


async def _coroutine(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


def _connection_options(address: RedisAddress) -> dict[str, Any]:
    """Return the redis-py arguments for a connection to an address."""
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "client_name": address.client_name,
    }
    if address.path:
        return {**options, "connection_class": UnixDomainSocketConnection, "path": address.path}
    options |= {"host": address.host, "port": address.port}
    if address.is_tls:
        return {**options, "connection_class": SSLConnection, **address.tls_options}
    return {**options, "connection_class": Connection}


def _is_demoted(error: RedisError) -> bool:
    """Return whether the node is a replica, or has unblocked its clients because it became one.

    Redis before 7.0 reports a READONLY inside a script as an error of the script.
    """
    text = str(error)
    return isinstance(error, ReadOnlyError | MasterDownError) or "READONLY" in text or text.startswith("UNBLOCKED")


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the fields of a stream entry from the alternating list of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def backend_down() -> ServiceError:
    """Return the error for an unreachable Redis, or for no reachable worker."""
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
    """Return the stream of a checkpoint's chunks. Interactive requests and jobs have separate streams."""
    return f"{_tagged(checkpoint)}:{'interactive' if is_interactive else 'batch'}"


def dead_letter_name(checkpoint: str) -> str:
    """Return the dead-letter stream: chunks that failed for good, with the reason."""
    return f"{_tagged(checkpoint)}:dead"


def alone_name(stream: str, entry_id: str) -> str:
    """Return the set of a chunk's solo runs that have started and not ended; in the same slot as its stream."""
    return f"{stream}:alone-runs:{entry_id}"


def payload_name(ref: str) -> str:
    """Return the key of a chunk's bytes."""
    return f"{PREFIX}payload:{ref}"


def replies_name(front: str) -> str:
    """Return the stream of replies to one front."""
    return f"{PREFIX}replies:{front}"


def worker_name(worker: str) -> str:
    """Return the key under which a worker publishes its model."""
    return f"{WORKERS_KEY}:{worker}"


def _tagged(checkpoint: str) -> str:
    digest, at, size_px = checkpoint.removeprefix("sha256:").partition("@")
    return f"{PREFIX}chunks:{{{digest[:32]}{at}{size_px}}}"
