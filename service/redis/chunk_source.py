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

from service.domain.chunk import MAX_CHUNK_SAMPLES, Chunk, SegmentedChunk
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.redis.link import (
    GROUP,
    GroupExistsError,
    GroupMissingError,
    RedisLink,
    fields_of,
    payload_name,
    stream_name,
)
from service.redis.model_directory import publish_model, withdraw_model
from service.redis.queue_entry import EntryReplies, QueueEntry
from service.redis.scripts import LEAVE, RELEASE, RENEW, TAKE
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
_ALONE_TTL_S = 86_400


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
        self._replies = EntryReplies(
            jobs, data, worker=policy.worker, consumer=self._consumer, checkpoint=checkpoint, metrics=metrics
        )
        self._streams = tuple(stream_name(checkpoint, is_interactive=flag) for flag in (True, False))
        self._entries: dict[str, QueueEntry] = {}
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
            entries = [QueueEntry.parse(self._streams[place - 1], entry) for place, *entry in taken]
            if not entries and wait_s > 0:
                entries = await self._wait_for_one(wait_ms=max(1, int(wait_s * 1000)))
        except GroupMissingError:
            self._is_joined = False
            return ()
        return await self._open(entries)

    async def reclaim(self) -> LeasedChunk | None:
        """Claim a chunk that this worker held before a restart, or one with an expired lease. None if there is none."""
        await self._join()
        try:
            while (entry := await self._claim()) is not None:
                leased = await self._reopen(entry)
                if leased is not None:
                    return leased
        except GroupMissingError:
            self._is_joined = False
        return None

    async def start_alone(self, leased: LeasedChunk) -> None:
        """Record the solo run before it starts, because a crashed worker cannot. Idempotent."""
        name = self._entries[leased.token].alone_name
        await self._jobs.pipeline([("SADD", name, leased.attempt), ("EXPIRE", name, _ALONE_TTL_S)])

    async def renew(self, leased_chunks: Sequence[LeasedChunk]) -> frozenset[str]:
        """Renew the leases of chunks. Return the tokens of those that this worker no longer holds."""
        lost = {leased.token for leased in leased_chunks if leased.token not in self._entries}
        for stream in self._streams:
            mine = [(d.token, self._entries[d.token]) for d in leased_chunks if d.token in self._entries]
            mine = [(token, entry) for token, entry in mine if entry.stream == stream]
            if not mine:
                continue
            words = [GROUP, self._consumer, *(entry.entry_id for _, entry in mine)]
            try:
                states = await self._jobs.script(RENEW, [stream], words)
            except GroupMissingError:
                self._is_joined, states = False, [0] * len(mine)
            lost |= {token for (token, _), state in zip(mine, states, strict=True) if state != 1}
        for token in lost:
            self._entries.pop(token, None)
        return frozenset(lost)

    async def complete(self, leased: LeasedChunk, answer: SegmentedChunk | ServiceError) -> bool:
        """Check the lease, reply, then delete the entry. Return False if the lease was lost.

        After a crash between the last two steps another worker replies again; the front drops the second reply.
        """
        entry = self._entries.get(leased.token)
        if entry is None or await self.renew([leased]):
            self.num_late_replies += 1
            return False
        await self._replies.reply(entry, encode_answer(answer), attempt=leased.attempt)
        await self._replies.finish(entry)
        self._entries.pop(leased.token, None)
        return True

    async def release(self, leased: LeasedChunk, *, has_crashed: bool = False) -> None:
        """Give up the lease so that any worker can claim the chunk at once.

        Args:
            leased: the chunk.
            has_crashed: count the unfinished solo run as a crash, because it ended the worker's device.
        """
        entry = self._entries.pop(leased.token, None)
        if entry is not None:
            keys = [entry.stream, entry.alone_name]
            idle_ms = int(self._policy.lease_s * 1000)
            words: list[str | float] = [GROUP, self._consumer, entry.entry_id, idle_ms, int(has_crashed)]
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

    async def _wait_for_one(self, *, wait_ms: int) -> list[QueueEntry]:
        names = (*self._streams, *(">" for _ in self._streams))
        reply = await self._jobs.call(
            "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", 1, "BLOCK", wait_ms, "STREAMS", *names
        )
        return [QueueEntry.parse(stream.decode(), entry) for stream, entries in reply or () for entry in entries]

    async def _claim(self) -> QueueEntry | None:
        while self._former:
            stream, former = self._former[-1]
            pending = await self._jobs.call("XPENDING", stream, GROUP, "-", "+", 1, former)
            if not pending:
                await self._jobs.script(LEAVE, [stream], [GROUP, former])
                self._former.pop()
                continue
            claimed = await self._jobs.call("XCLAIM", stream, GROUP, self._consumer, 0, pending[0][0])
            if claimed:
                return QueueEntry.parse(stream, claimed[0])
        for stream in self._streams:
            cursor = b"0-0"
            while True:
                cursor, entries, *_ = await self._jobs.call(
                    "XAUTOCLAIM", stream, GROUP, self._consumer, self._dead_after_ms, cursor, "COUNT", 1
                )
                if entries:
                    return QueueEntry.parse(stream, entries[0])
                if cursor == b"0-0":
                    break
        return None

    async def _open(self, entries: Sequence[QueueEntry]) -> list[LeasedChunk]:
        """Fetch the chunks of new entries. Chunks that are unreadable, missing or late are answered here."""
        if not entries:
            return []
        bodies = await self._data.pipeline([("GET", payload_name(entry.ref)) for entry in entries])
        leased_chunks = []
        for entry, body in zip(entries, bodies, strict=True):
            chunk = await self._read_chunk(entry, body, attempt=1)
            if chunk is not None:
                leased_chunks.append(self._hold(entry, LeasedChunk(token=entry.token, chunk=chunk)))
        return leased_chunks

    async def _reopen(self, entry: QueueEntry) -> LeasedChunk | None:
        """Fetch the chunk of a crashed worker. Fail it as `poison_clip` after `MAX_DEATHS_ALONE` crashes."""
        pending, deaths = await self._jobs.pipeline(
            [
                ("XPENDING", entry.stream, GROUP, entry.entry_id, entry.entry_id, 1),
                ("SCARD", entry.alone_name),
            ]
        )
        attempt = pending[0][3] if pending else 2
        self._metrics.redeliveries_total.inc()
        if int(deaths or 0) >= MAX_DEATHS_ALONE:
            await self._replies.give_up(entry, POISON, reason="two workers died while it ran alone", attempt=attempt)
            return None
        chunk = await self._read_chunk(entry, await self._data.call("GET", payload_name(entry.ref)), attempt=attempt)
        if chunk is None:
            return None
        return self._hold(entry, LeasedChunk(token=entry.token, chunk=chunk, attempt=attempt, is_suspect=True))

    def _hold(self, entry: QueueEntry, leased: LeasedChunk) -> LeasedChunk:
        self._entries[leased.token] = entry
        return leased

    async def _read_chunk(self, entry: QueueEntry, body: bytes | None, *, attempt: int) -> Chunk | None:
        if body is None:  # its front dropped it, or Redis lost it; a front that still waits sends it again
            await self._replies.refuse(entry, b"", attempt=attempt)
            return None
        try:
            chunk = decode_chunk(body, clock=self._clock, elapsed_s=self._age_s(entry))
        except WireError as error:
            failure = ServiceError("internal", "A chunk could not be read by its worker.")
            await self._replies.give_up(entry, failure, reason=f"unreadable: {error}", attempt=attempt)
            return None
        if chunk.deadline.has_passed(self._clock):
            late = ServiceError("deadline_exceeded", "The deadline passed in the queue; send a longer timeout.")
            await self._replies.refuse(entry, encode_answer(late), attempt=attempt)
            return None
        return chunk

    def _age_s(self, entry: QueueEntry) -> float:
        """Return the seconds since the entry was added, by the clock of Redis."""
        return max(0.0, self._clock() + self._server_offset_s - entry.added_s)

    @property
    def _dead_after_ms(self) -> int:
        return max(1, int(self._policy.lease_s * DEAD_AFTER * 1000))
