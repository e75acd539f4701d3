"""A stream entry of the chunk queue, and how its worker ends it: reply, deletion, dead letter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.errors import ServiceError
from service.redis.link import GROUP, RedisLink, alone_name, dead_letter_name, fields_of, payload_name, replies_name
from service.redis.scripts import FINISH
from service.redis.wire import encode_answer
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_REPLIES_TTL_MS = 60_000
_DEAD_LETTERS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """The stream entry of a chunk.

    Attributes:
        stream: name of the stream.
        entry_id: id of the entry in it; starts with the time in milliseconds since 1970 by the clock of Redis.
        ref: id of the chunk's payload.
        front: id of the front that waits for the answer.
        request_id: for logs and dead letters.
    """

    stream: str
    entry_id: str
    ref: str
    front: str
    request_id: str

    @property
    def token(self) -> str:
        """Unique id of the entry over all streams; entry ids are unique only within a stream."""
        return f"{self.stream}/{self.entry_id}"

    @property
    def alone_name(self) -> str:
        """Name of the set of attempts in which the chunk ran alone."""
        return alone_name(self.stream, self.entry_id)

    @property
    def added_s(self) -> float:
        """Time at which the entry was added, in seconds since 1970, by the clock of Redis."""
        return int(self.entry_id.partition("-")[0]) / 1000

    @classmethod
    def parse(cls, stream: str, entry: Sequence[Any]) -> QueueEntry:
        """Return the entry that Redis gave as id and fields."""
        entry_id, flat = entry
        fields = {name.decode(): value.decode("utf-8", "replace") for name, value in fields_of(flat or ()).items()}
        return cls(
            stream=stream,
            entry_id=entry_id.decode(),
            ref=fields.get("ref", ""),
            front=fields.get("front", ""),
            request_id=fields.get("request_id", ""),
        )


class EntryReplies:
    """Ends entries that a worker holds. Every call may raise `backend_down`.

    Args:
        jobs: the Redis of the streams.
        data: the Redis of payloads and replies; may be the same.
        worker: name of the worker, which replies carry.
        consumer: consumer that holds the entries.
        checkpoint: checkpoint that the worker runs; part of the dead-letter stream's name.
        metrics: counts dead letters.
    """

    def __init__(
        self, jobs: RedisLink, data: RedisLink, *, worker: str, consumer: str, checkpoint: str, metrics: Metrics
    ) -> None:
        self._jobs = jobs
        self._data = data
        self._worker = worker
        self._consumer = consumer
        self._checkpoint = checkpoint
        self._metrics = metrics

    async def give_up(self, entry: QueueEntry, failure: ServiceError, *, reason: str, attempt: int) -> None:
        """Reply a failure that repeating cannot help, and record the chunk in the dead-letter stream."""
        logger.error("a chunk has failed for good", extra={"reason": reason, "attempt": attempt})
        self._metrics.dead_letters_total.inc()
        fields = ("ref", entry.ref, "request_id", entry.request_id, "reason", reason, "attempt", attempt)
        name = dead_letter_name(self._checkpoint)
        await self._jobs.call("XADD", name, "MAXLEN", "~", _DEAD_LETTERS_KEPT, "*", *fields)
        await self.reply(entry, encode_answer(failure), attempt=attempt)
        await self.finish(entry)

    async def reply(self, entry: QueueEntry, body: bytes, *, attempt: int) -> None:
        """Append the reply to the front's stream, which expires unless the front reads it. Delete the payload."""
        name = replies_name(entry.front)
        fields = ("ref", entry.ref, "attempt", attempt, "worker", self._worker, "body", body)
        await self._data.pipeline(
            [
                ("XADD", name, "*", *fields),
                ("PEXPIRE", name, _REPLIES_TTL_MS),
                *([("UNLINK", payload_name(entry.ref))] if body else []),
            ]
        )

    async def refuse(self, entry: QueueEntry, body: bytes, *, attempt: int) -> None:
        """Delete the entry without work, then reply. If the reply is lost, the front sends the chunk again."""
        if await self.finish(entry):
            await self.reply(entry, body, attempt=attempt)

    async def finish(self, entry: QueueEntry) -> bool:
        """Delete the entry. Return False if another worker holds it or it is gone."""
        keys = [entry.stream, entry.alone_name]
        return bool(await self._jobs.script(FINISH, keys, [GROUP, self._consumer, entry.entry_id]))
