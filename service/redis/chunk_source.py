"""The worker's side of the chunk queue: a Redis consumer group whose pending entries are leases.

An entry stays pending until its answer is in the front's reply stream. A crashed worker stops renewing; its entries
become idle and another worker, or the restarted one, claims them. A claimed chunk may have caused the crash, so it runs
alone from then on. Only crashes while it runs alone count against it; after two of them it fails as `poison_clip`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from service.domain.chunk import MAX_CHUNK_SAMPLES, Chunk, SegmentedChunk
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.redis.link import (
    GROUP,
    GroupExistsError,
    GroupMissingError,
    RedisLink,
    alone_name,
    dead_letter_name,
    fields_of,
    payload_name,
    replies_name,
    stream_name,
)
from service.redis.model_directory import publish_model, withdraw_model
from service.redis.scripts import FINISH, LEAVE, RELEASE, RENEW, TAKE
from service.redis.wire import WireError, decode_chunk, encode_answer
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

# Share of the lease after which an entry that was not renewed can be claimed by another worker. Entries are renewed
# after a fifth of the lease.
#
# The share is below 1 so that a stuck worker is noticed before its lease ends.
DEAD_AFTER = 0.75
# A chunk fails as `poison_clip` after this many crashes while it ran alone.
MAX_DEATHS_ALONE = 2
POISON = ServiceError("poison_clip", "The clip crashed its worker twice and is not retried; change the clip.")
_REPLIES_TTL_MS = 60_000
_ALONE_TTL_S = 86_400
_DEAD_LETTERS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class ChunkSourcePolicy:
    """Name and lease of a worker.

    Attributes:
        worker: name of the worker (host and ops port). It survives restarts, so that a restarted worker claims its old
            chunks at once.
        lease_s: duration of a lease; a chunk that is not renewed within `DEAD_AFTER` of it can be claimed.
    """

    worker: str
    lease_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _Ticket:
    """The stream entry of a chunk."""

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
        return alone_name(self.stream, self.entry_id)


@dataclass(frozen=True, slots=True)
class LeasedChunk:
    """A chunk that a worker has leased.

    Attributes:
        token: unique id within its source.
        chunk: the chunk to segment.
        attempt: 1 for the first delivery.
        is_suspect: whether its previous worker crashed; such a chunk must run alone.
    """

    token: str
    chunk: Chunk
    attempt: int = 1
    is_suspect: bool = False


class RedisChunkSource:
    """Source of the chunks of one checkpoint, and sink of their answers. Every call may raise `backend_down`.

    Args:
        jobs: the Redis of the streams.
        data: the Redis of payloads and replies; may be the same.
        policy: name and lease of the worker.
        checkpoint: checkpoint that this worker runs; part of the stream names.
        metrics: counts redeliveries and dead letters.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        jobs: RedisLink,
        data: RedisLink,
        policy: ChunkSourcePolicy,
        *,
        checkpoint: str,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._data = data
        self._policy = policy
        self._checkpoint = checkpoint
        self._metrics = metrics
        self._clock = clock
        self._consumer = f"{policy.worker}/{uuid.uuid4().hex}"
        self._streams = tuple(stream_name(checkpoint, is_interactive=flag) for flag in (True, False))
        self._tickets: dict[str, _Ticket] = {}
        self._former: list[tuple[str, str]] = []
        self._is_joined = False
        self._server_offset_s = 0.0
        self.num_late_replies = 0

    async def announce(self, info: ModelInfo) -> None:
        """Publish the model of this worker for one lease, and measure the offset to the clock of Redis."""
        await self._join()
        await publish_model(self._jobs, worker=self._consumer, info=info, ttl_s=self._policy.lease_s)
        seconds, micros = await self._jobs.call("TIME")
        self._server_offset_s = int(seconds) + int(micros) / 1e6 - self._clock()

    async def withdraw(self, *, has_failed: bool = False) -> None:
        """Remove the published model, and leave the consumer groups in which nothing of this worker is pending.

        A released chunk is pending until another worker claims it, and would be lost with its consumer.
        """
        await withdraw_model(self._jobs, worker=self._consumer, has_failed=has_failed)
        for stream in self._streams:
            with suppress(GroupMissingError):
                await self._jobs.script(LEAVE, [stream], [GROUP, self._consumer])

    async def take(self, max_samples: int, *, wait_s: float) -> Sequence[LeasedChunk]:
        """Lease chunks of up to `max_samples` samples, interactive ones first. If none wait, wait up to `wait_s`."""
        await self._join()
        try:
            taken = await self._jobs.script(
                TAKE, self._streams, [GROUP, self._consumer, max_samples, MAX_CHUNK_SAMPLES]
            )
            tickets = [_ticket(self._streams[place - 1], entry) for place, *entry in taken]
            if not tickets and wait_s > 0:
                tickets = await self._wait_for_one(wait_ms=max(1, int(wait_s * 1000)))
        except GroupMissingError:
            self._is_joined = False
            return ()
        return await self._open(tickets)

    async def reclaim(self) -> LeasedChunk | None:
        """Claim a chunk that this worker held before a restart, or one with an expired lease. None if there is none."""
        await self._join()
        try:
            while (ticket := await self._claim()) is not None:
                leased = await self._reopen(ticket)
                if leased is not None:
                    return leased
        except GroupMissingError:
            self._is_joined = False
        return None

    async def start_alone(self, leased: LeasedChunk) -> None:
        """Record the solo run before it starts, because a crashed worker cannot. Idempotent."""
        name = self._tickets[leased.token].alone_name
        await self._jobs.pipeline([("SADD", name, leased.attempt), ("EXPIRE", name, _ALONE_TTL_S)])

    async def renew(self, leased_chunks: Sequence[LeasedChunk]) -> frozenset[str]:
        """Renew the leases of chunks. Return the tokens of those that this worker no longer holds."""
        lost = {leased.token for leased in leased_chunks if leased.token not in self._tickets}
        for stream in self._streams:
            mine = [(d.token, self._tickets[d.token]) for d in leased_chunks if d.token in self._tickets]
            mine = [(token, ticket) for token, ticket in mine if ticket.stream == stream]
            if not mine:
                continue
            words = [GROUP, self._consumer, *(ticket.entry_id for _, ticket in mine)]
            try:
                states = await self._jobs.script(RENEW, [stream], words)
            except GroupMissingError:
                self._is_joined, states = False, [0] * len(mine)
            lost |= {token for (token, _), state in zip(mine, states, strict=True) if state != 1}
        for token in lost:
            self._tickets.pop(token, None)
        return frozenset(lost)

    async def complete(self, leased: LeasedChunk, answer: SegmentedChunk | ServiceError) -> bool:
        """Check the lease, reply, then delete the entry. Return False if the lease was lost.

        After a crash between the last two steps another worker replies again; the front drops the second reply.
        """
        ticket = self._tickets.get(leased.token)
        if ticket is None or await self.renew([leased]):
            self.num_late_replies += 1
            return False
        await self._reply(ticket, encode_answer(answer), attempt=leased.attempt)
        await self._finish(ticket)
        self._tickets.pop(leased.token, None)
        return True

    async def release(self, leased: LeasedChunk, *, has_crashed: bool = False) -> None:
        """Give up the lease so that any worker can claim the chunk at once.

        Args:
            leased: the chunk.
            has_crashed: count the unfinished solo run as a crash, because it ended the worker's device.
        """
        ticket = self._tickets.pop(leased.token, None)
        if ticket is not None:
            keys = [ticket.stream, ticket.alone_name]
            idle_ms = int(self._policy.lease_s * 1000)
            words: list[str | float] = [GROUP, self._consumer, ticket.entry_id, idle_ms, int(has_crashed)]
            await self._jobs.script(RELEASE, keys, words)

    async def _join(self) -> None:
        """Create missing streams and groups, and find consumers of this worker from before a restart."""
        if self._is_joined:
            return
        self._former = []
        for stream in self._streams:
            with suppress(GroupExistsError):
                await self._jobs.call("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
            consumers = await self._jobs.call("XINFO", "CONSUMERS", stream, GROUP)
            names = [fields_of(consumer)[b"name"].decode() for consumer in consumers]
            mine = f"{self._policy.worker}/"
            self._former += [(stream, name) for name in names if name.startswith(mine) and name != self._consumer]
        self._is_joined = True

    async def _wait_for_one(self, *, wait_ms: int) -> list[_Ticket]:
        names = (*self._streams, *(">" for _ in self._streams))
        reply = await self._jobs.call(
            "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", 1, "BLOCK", wait_ms, "STREAMS", *names
        )
        return [_ticket(stream.decode(), entry) for stream, entries in reply or () for entry in entries]

    async def _claim(self) -> _Ticket | None:
        while self._former:
            stream, former = self._former[-1]
            pending = await self._jobs.call("XPENDING", stream, GROUP, "-", "+", 1, former)
            if not pending:
                await self._jobs.script(LEAVE, [stream], [GROUP, former])
                self._former.pop()
                continue
            claimed = await self._jobs.call("XCLAIM", stream, GROUP, self._consumer, 0, pending[0][0])
            if claimed:
                return _ticket(stream, claimed[0])
        for stream in self._streams:
            cursor = b"0-0"
            while True:
                cursor, entries, *_ = await self._jobs.call(
                    "XAUTOCLAIM", stream, GROUP, self._consumer, self._dead_after_ms, cursor, "COUNT", 1
                )
                if entries:
                    return _ticket(stream, entries[0])
                if cursor == b"0-0":
                    break
        return None

    async def _open(self, tickets: Sequence[_Ticket]) -> list[LeasedChunk]:
        """Fetch the chunks of new entries. Chunks that are unreadable, missing or late are answered here."""
        if not tickets:
            return []
        bodies = await self._data.pipeline([("GET", payload_name(ticket.ref)) for ticket in tickets])
        leased_chunks = []
        for ticket, body in zip(tickets, bodies, strict=True):
            chunk = await self._read_chunk(ticket, body, attempt=1)
            if chunk is not None:
                leased_chunks.append(self._hold(ticket, LeasedChunk(token=ticket.token, chunk=chunk)))
        return leased_chunks

    async def _reopen(self, ticket: _Ticket) -> LeasedChunk | None:
        """Fetch the chunk of a crashed worker. Fail it as `poison_clip` after `MAX_DEATHS_ALONE` crashes."""
        pending, deaths = await self._jobs.pipeline(
            [
                ("XPENDING", ticket.stream, GROUP, ticket.entry_id, ticket.entry_id, 1),
                ("SCARD", ticket.alone_name),
            ]
        )
        attempt = pending[0][3] if pending else 2
        self._metrics.redeliveries_total.inc()
        if int(deaths or 0) >= MAX_DEATHS_ALONE:
            await self._give_up(ticket, POISON, reason="two workers died while it ran alone", attempt=attempt)
            return None
        chunk = await self._read_chunk(ticket, await self._data.call("GET", payload_name(ticket.ref)), attempt=attempt)
        if chunk is None:
            return None
        return self._hold(ticket, LeasedChunk(token=ticket.token, chunk=chunk, attempt=attempt, is_suspect=True))

    def _hold(self, ticket: _Ticket, leased: LeasedChunk) -> LeasedChunk:
        self._tickets[leased.token] = ticket
        return leased

    async def _read_chunk(self, ticket: _Ticket, body: bytes | None, *, attempt: int) -> Chunk | None:
        if body is None:  # its front dropped it, or Redis lost it; a front that still waits sends it again
            await self._refuse(ticket, b"", attempt=attempt)
            return None
        try:
            chunk = decode_chunk(body, clock=self._clock, elapsed_s=self._age_s(ticket))
        except WireError as error:
            failure = ServiceError("internal", "A chunk could not be read by its worker.")
            await self._give_up(ticket, failure, reason=f"unreadable: {error}", attempt=attempt)
            return None
        if chunk.deadline.has_passed(self._clock):
            late = ServiceError("deadline_exceeded", "The deadline passed in the queue; send a longer timeout.")
            await self._refuse(ticket, encode_answer(late), attempt=attempt)
            return None
        return chunk

    async def _give_up(self, ticket: _Ticket, failure: ServiceError, *, reason: str, attempt: int) -> None:
        logger.error("a chunk has failed for good", extra={"reason": reason, "attempt": attempt})
        self._metrics.dead_letters_total.inc()
        fields = ("ref", ticket.ref, "request_id", ticket.request_id, "reason", reason, "attempt", attempt)
        name = dead_letter_name(self._checkpoint)
        await self._jobs.call("XADD", name, "MAXLEN", "~", _DEAD_LETTERS_KEPT, "*", *fields)
        await self._reply(ticket, encode_answer(failure), attempt=attempt)
        await self._finish(ticket)

    async def _reply(self, ticket: _Ticket, body: bytes, *, attempt: int) -> None:
        """Append the reply to the front's stream, which expires unless the front reads it. Delete the payload."""
        name = replies_name(ticket.front)
        fields = ("ref", ticket.ref, "attempt", attempt, "worker", self._policy.worker, "body", body)
        await self._data.pipeline(
            [
                ("XADD", name, "*", *fields),
                ("PEXPIRE", name, _REPLIES_TTL_MS),
                *([("UNLINK", payload_name(ticket.ref))] if body else []),
            ]
        )

    async def _refuse(self, ticket: _Ticket, body: bytes, *, attempt: int) -> None:
        """Delete the entry without work, then reply. If the reply is lost, the front sends the chunk again."""
        if await self._finish(ticket):
            await self._reply(ticket, body, attempt=attempt)

    async def _finish(self, ticket: _Ticket) -> bool:
        keys = [ticket.stream, ticket.alone_name]
        return bool(await self._jobs.script(FINISH, keys, [GROUP, self._consumer, ticket.entry_id]))

    def _age_s(self, ticket: _Ticket) -> float:
        """Return the seconds since the entry was added, by the clock of Redis."""
        added_s = int(ticket.entry_id.partition("-")[0]) / 1000
        return max(0.0, self._clock() + self._server_offset_s - added_s)

    @property
    def _dead_after_ms(self) -> int:
        return max(1, int(self._policy.lease_s * DEAD_AFTER * 1000))


def _ticket(stream: str, entry: Sequence[Any]) -> _Ticket:
    entry_id, flat = entry
    fields = {name.decode(): value.decode("utf-8", "replace") for name, value in fields_of(flat or ()).items()}
    return _Ticket(
        stream=stream,
        entry_id=entry_id.decode(),
        ref=fields.get("ref", ""),
        front=fields.get("front", ""),
        request_id=fields.get("request_id", ""),
    )
