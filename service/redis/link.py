"""A connection to one Redis, its failures as ServiceErrors, and the names of every key of the chunk queue.

redis-py is used directly. FastStream was considered: its batch and reclaim subscribers cover the easy half, but intake
by free capacity, lease renewal, solo redelivery, deletion on acknowledgement, cancellation and replies per front would
still be written by hand, next to a framework that owns the loop. Lua scripts rather than the newer XACKDEL and
XREADGROUP CLAIM keep one code path from Redis 7.0 to the newest.

Fail-over: a node that was demoted to a replica keeps its connections open and refuses writes with READONLY. The link
treats this as a lost connection: all pooled connections are reopened before their next use, so that they reach whatever
the address names now, and the command is sent again.

Cluster mode: the keys of one queue share the hash tag of its checkpoint, so each script touches one slot; payload and
reply keys carry no tag and spread. This client speaks to one endpoint; a sharded cluster behind plain nodes would need
`RedisCluster` here and nothing else.
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
# A key that never exists: deleting it writes nothing, and a replica refuses even that.
_NO_KEY = PREFIX + "none"


class GroupMissingError(Exception):
    """The stream or its group is not there: Redis came back without its data."""


class GroupExistsError(Exception):
    """Another worker has created the group already."""


class _ReopeningPool(BlockingConnectionPool):
    """Connection pool that can be told to reopen every connection before its next use."""

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
    """One Redis as a component sees it: commands with bytes back, and whether it answered last time.

    Args:
        url: see `service.domain.redis_address`.
        clock: seconds, monotonic.
        max_connections: bound of the pool; further calls wait for a connection.

    Raises:
        ValueError: the URL is not usable.
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
            # One retry covers a pooled connection that died idle; entries added twice are dropped by their reference.
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        )
        self._client = Redis.from_pool(self._pool)
        # Replies as they come over the wire: one shape in every version of client and server.
        self._client.response_callbacks.clear()
        self._down_since_s: float | None = None

    @property
    def down_for_s(self) -> float:
        """Seconds since Redis stopped answering; 0 while it answers."""
        return 0.0 if self._down_since_s is None else max(1e-9, self._clock() - self._down_since_s)

    async def call(self, *words: str | bytes | float) -> Any:
        """Return the reply of one command.

        Raises:
            ServiceError: `backend_down` if Redis does not answer, `queue_full` if its memory is at the limit.
            GroupMissingError: the consumer group is gone.
        """
        replies = await self.pipeline([words])
        return replies[0]

    async def pipeline(self, commands: Sequence[Sequence[str | bytes | float]]) -> list[Any]:
        """Send several commands in one go and return their replies in order; raise as `call` for the first failure."""
        replies: list[Any] = await self._try(lambda: self._send(commands))
        return replies

    async def script(self, source: str, keys: Sequence[str], words: Sequence[str | bytes | float]) -> Any:
        """Run a Lua script atomically. Its hash is sent, and its source to a node that does not know it."""
        return await self._try(lambda: self._run(source, keys, words))

    async def check_primary(self) -> None:
        """Raise `backend_down` if this node refuses writes; a demoted node still answers reads."""
        await self.call("DEL", _NO_KEY)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _try(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send; once more over fresh connections if the node turns out to be no primary any more."""
        epoch = self._pool.epoch
        try:
            try:
                reply = await cancel_reliably(_coroutine(send))
            except RedisError as error:
                if not _is_demoted(error):
                    raise
                if self._pool.epoch == epoch:
                    logger.warning("redis is no primary any more; connecting anew")
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
        # Not SCRIPT LOAD and the hash once more: during a fail-over the two commands may reach different nodes.
        arguments = (len(keys), *keys, *words)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self._client.execute_command("EVALSHA", sha, *arguments)  # type: ignore[no-untyped-call]
        except NoScriptError:
            return await self._client.execute_command("EVAL", source, *arguments)  # type: ignore[no-untyped-call]

    def _went_down(self, error: Exception) -> ServiceError:
        if self._down_since_s is None:
            self._down_since_s = self._clock()
            logger.warning("redis does not answer", extra={"reason": type(error).__name__})
        return backend_down()


async def _coroutine(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


def _connection_options(address: RedisAddress) -> dict[str, Any]:
    """redis-py's arguments for a connection to an address."""
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
    """Whether the node is a replica, or cut blocked clients off because it became one.

    Redis before 7.0 reports a READONLY inside a script as an error of the script.
    """
    text = str(error)
    return isinstance(error, ReadOnlyError | MasterDownError) or "READONLY" in text or text.startswith("UNBLOCKED")


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
