"""The unanswered chunks of a front: send them, send lost ones again, delete dropped ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.redis.link import RedisLink, backend_down, payload_name, stream_name
from service.redis.wire import encode_chunk

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class OutstandingChunk:
    """A chunk that was sent and is not answered yet.

    Attributes:
        chunk: the chunk, with the checkpoint of `model`.
        model: the model that it was sent for.
        ref: id of its payload.
        answer: its masks, or the error that ends it.
        sent_at_s: when it was first sent, by the front's clock.
        entry_id: id of its latest stream entry.
        num_sends: how often it was sent.
        num_absences: checks in a row that did not find the entry.
        refreshed_at_s: when the lifetime of its payload was last renewed.
    """

    chunk: Chunk
    model: ModelInfo
    ref: str
    answer: asyncio.Future[SegmentedChunk]
    sent_at_s: float
    entry_id: bytes = b""
    num_sends: int = 0
    num_absences: int = 0
    refreshed_at_s: float = 0.0

    @property
    def stream(self) -> str:
        """Name of its stream."""
        return stream_name(self.chunk.checkpoint, is_interactive=self.chunk.is_interactive)

    def fail(self, error: ServiceError) -> None:
        """End it with an error, unless it is answered."""
        if not self.answer.done():
            self.answer.set_exception(error)


class OutstandingChunks:
    """The table of unanswered chunks of a front.

    Args:
        jobs: the Redis of the streams.
        data: the Redis of payloads; may be the same.
        front: id of the front, to which workers reply.
        payload_ttl_s: lifetime of a chunk's bytes in Redis.
        max_sends: most times that one chunk is sent, including the first.
        clock: seconds, monotonic.
    """

    def __init__(
        self, jobs: RedisLink, data: RedisLink, *, front: str, payload_ttl_s: float, max_sends: int, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._data = data
        self._front = front
        self._payload_ttl_ms = int(payload_ttl_s * 1000)
        self._max_sends = max_sends
        self._clock = clock
        self._entries: dict[str, OutstandingChunk] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[OutstandingChunk]:
        return iter(list(self._entries.values()))

    @property
    def num_samples(self) -> int:
        """Number of samples of all unanswered chunks."""
        return sum(len(entry.chunk.samples) for entry in self._entries.values())

    def find(self, ref: str) -> OutstandingChunk | None:
        """Return the chunk with this payload; None if it is no longer awaited."""
        return self._entries.get(ref)

    def add(self, entry: OutstandingChunk) -> None:
        """Add a chunk that will be sent."""
        self._entries[entry.ref] = entry

    def remove(self, entry: OutstandingChunk) -> None:
        """Remove a chunk that nobody waits for any more."""
        del self._entries[entry.ref]

    async def send(self, entry: OutstandingChunk) -> None:
        """Store the bytes before the reference, so that a worker never sees a reference without its bytes."""
        entry.num_sends += 1
        entry.num_absences = 0
        if entry.num_sends > self._max_sends:
            raise backend_down()
        chunk = entry.chunk
        body = encode_chunk(chunk, clock=self._clock)
        entry.refreshed_at_s = self._clock()
        await self._data.call("SET", payload_name(entry.ref), body, "PX", self._payload_ttl_ms)
        header = ("ref", entry.ref, "front", self._front, "request_id", chunk.request_id)
        fields = (*header, "no", chunk.chunk_no, "samples", len(chunk.samples))
        entry.entry_id = await self._jobs.call("XADD", entry.stream, "*", *fields)

    async def retire(self, entry: OutstandingChunk) -> None:
        """Delete a chunk that nobody waits for. A worker that runs it notices when it renews the lease."""
        try:
            if entry.entry_id:
                await self._jobs.call("XDEL", entry.stream, entry.entry_id)
            await self._data.call("UNLINK", payload_name(entry.ref))
        except ServiceError:
            logger.info("a dropped chunk could not be deleted and will expire")

    async def send_again(self, entry: OutstandingChunk) -> None:
        """Send a chunk that Redis lost. If this fails, the next `audit` sends it; after `max_sends` the chunk fails."""
        try:
            await self.send(entry)
        except ServiceError as error:
            if entry.num_sends >= self._max_sends:
                entry.fail(error)

    async def audit(self) -> None:
        """Check every outstanding entry. An entry that is missing twice without an answer was lost by Redis.

        A worker replies before it deletes the entry, and the reply may not have arrived at the first check.
        """
        entries = [entry for entry in self._entries.values() if entry.entry_id and not entry.answer.done()]
        if not entries:
            return
        found = await self._jobs.pipeline([("XRANGE", e.stream, e.entry_id, e.entry_id) for e in entries])
        for entry, present in zip(entries, found, strict=True):
            entry.num_absences = 0 if present else entry.num_absences + 1
            if entry.num_absences >= 2 and not entry.answer.done():
                logger.warning("a chunk is missing from the queue and is sent again")
                await self.send_again(entry)
        due_s = self._clock() - self._payload_ttl_ms / 3000
        stale = [entry for entry in entries if entry.refreshed_at_s < due_s]
        if stale:
            await self._data.pipeline([("PEXPIRE", payload_name(e.ref), self._payload_ttl_ms) for e in stale])
        for entry in stale:
            entry.refreshed_at_s = self._clock()
