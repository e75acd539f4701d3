"""Queue of samples that wait for the device: bounded, fair between requests, interactive before jobs. No locks."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.domain.chunk import Chunk, SegmentedChunk, split_maps
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks

# After `job_patience_s`, jobs get one sample in this many.
JOB_SHARE = 8


@dataclass(eq=False, slots=True)
class PendingChunk:
    """A chunk between arrival and answer. Its samples may be spread over several batches.

    Attributes:
        num_taken: samples already handed to a batch; the next batch starts there.
        frames: finished frames by position; None where unfinished.
        is_dropped: the caller left or the deadline passed; read by the device thread just before a call.
    """

    chunk: Chunk
    arrived_s: float
    future: asyncio.Future[SegmentedChunk]
    num_taken: int = 0
    is_dropped: bool = False
    predict_s: float = 0.0
    encode_s: float = 0.0
    frames: list[FrameMasks | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.frames = [None] * len(self.chunk.samples)

    @property
    def request_id(self) -> str:
        """Return the id of the request that the samples belong to."""
        return self.chunk.request_id

    @property
    def num_waiting(self) -> int:
        """Return the number of samples not yet handed to a batch."""
        return len(self.frames) - self.num_taken

    def fill(self, start: int, frames: tuple[FrameMasks, ...], *, now_s: float) -> None:
        """Store finished frames from position `start` on; the last missing frame completes the future."""
        self.frames[start : start + len(frames)] = frames
        finished = tuple(frame for frame in self.frames if frame is not None)
        if len(finished) == len(self.frames) and not self.is_dropped and not self.future.done():
            spent_s = now_s - self.arrived_s - self.predict_s - self.encode_s
            plain, maps = split_maps(finished)
            self.future.set_result(SegmentedChunk(plain, max(0.0, spent_s), self.predict_s, self.encode_s, maps))

    def fail(self, error: ServiceError) -> None:
        """End the chunk with an error. Later results of other batches are ignored."""
        if not self.is_dropped and not self.future.done():
            self.future.set_exception(error)
        self.is_dropped = True


@dataclass(frozen=True, slots=True)
class SampleSlice:
    """Samples [start, stop) of one pending chunk. A batch is a list of slices."""

    pending: PendingChunk
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class _Lane:
    """Chunks of one priority, first in first out within a request, requests in turn."""

    def __init__(self) -> None:
        self.requests: OrderedDict[str, deque[PendingChunk]] = OrderedDict()

    def chunks(self) -> Iterator[PendingChunk]:
        for chunks in self.requests.values():
            yield from chunks

    def oldest_arrival_s(self) -> float:
        return min((chunks[0].arrived_s for chunks in self.requests.values()), default=math.inf)

    def take(self, limit: int) -> list[SampleSlice]:
        """Return at most `limit` samples in equal shares. Served requests move to the end of the line."""
        slices: list[SampleSlice] = []
        for request_id, share in self._shares(limit).items():
            chunks = self.requests.pop(request_id)
            while share:
                head = chunks[0]
                num = min(share, head.num_waiting)
                slices.append(SampleSlice(head, head.num_taken, head.num_taken + num))
                head.num_taken += num
                share -= num
                if not head.num_waiting:
                    chunks.popleft()
            if chunks:
                self.requests[request_id] = chunks
        return slices

    def _shares(self, limit: int) -> dict[str, int]:
        """Return the samples that each request may send: equal parts; unused parts go to the other requests."""
        waiting = {
            request_id: sum(chunk.num_waiting for chunk in chunks) for request_id, chunks in self.requests.items()
        }
        shares: dict[str, int] = {}
        while limit and waiting:
            part = max(1, limit // len(waiting))
            for request_id in list(waiting)[:limit]:
                num = min(part, waiting[request_id], limit)
                shares[request_id] = shares.get(request_id, 0) + num
                limit -= num
                waiting[request_id] -= num
                if not waiting[request_id]:
                    del waiting[request_id]
        return shares


class SampleQueue:
    """Samples that wait for the device.

    A batch takes equal shares of all waiting requests of a priority. Interactive requests go first and jobs fill the
    rest. After `job_patience_s`, jobs get one sample in `JOB_SHARE`.

    Args:
        max_samples: most samples waiting.
        max_bytes: most bytes of chunks waiting.
        job_patience_s: how long jobs yield to interactive requests.
    """

    def __init__(self, *, max_samples: int, max_bytes: int, job_patience_s: float) -> None:
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._job_patience_s = job_patience_s
        self._interactive = _Lane()
        self._jobs = _Lane()
        self._job_credit = 0.0
        self.num_samples = 0
        self.num_bytes = 0

    def add(self, pending: PendingChunk, *, retry_after_s: float | None = None) -> None:
        """Queue a chunk. Raises ServiceError `queue_full` beyond a limit."""
        num_bytes = pending.chunk.samples.num_bytes
        if self.num_samples + pending.num_waiting > self._max_samples or self.num_bytes + num_bytes > self._max_bytes:
            raise ServiceError(
                "queue_full",
                f"{self.num_samples} samples already wait for the device; try again later.",
                retry_after_s=retry_after_s,
            )
        lane = self._lane(pending)
        lane.requests.setdefault(pending.request_id, deque()).append(pending)
        self.num_samples += pending.num_waiting
        self.num_bytes += num_bytes

    def drop(self, pending: PendingChunk) -> None:
        """Remove a chunk if it is waiting."""
        lane = self._lane(pending)
        chunks = lane.requests.get(pending.request_id)
        if chunks is None or pending not in chunks:
            return
        chunks.remove(pending)
        if not chunks:
            del lane.requests[pending.request_id]
        self.num_samples -= pending.num_waiting
        self.num_bytes -= pending.chunk.samples.num_bytes

    def take(self, limit: int, *, now_s: float) -> list[SampleSlice]:
        """Return up to `limit` samples for one batch, in order within each request."""
        slices = self._jobs.take(self._job_allowance(limit, now_s=now_s))
        slices = self._interactive.take(limit - _count(slices)) + slices
        slices += self._jobs.take(limit - _count(slices))
        self.num_samples -= _count(slices)
        self.num_bytes -= sum(
            piece.pending.chunk.samples.num_bytes for piece in slices if piece.stop == len(piece.pending.frames)
        )
        return slices

    def expired(self, *, now_s: float) -> list[PendingChunk]:
        """Return the waiting chunks whose deadline has passed."""
        return [
            pending
            for lane in (self._interactive, self._jobs)
            for pending in lane.chunks()
            if now_s >= pending.chunk.deadline.at_s
        ]

    def chunks(self) -> list[PendingChunk]:
        """Return all waiting chunks."""
        return [*self._interactive.chunks(), *self._jobs.chunks()]

    def has_request(self, request_id: str) -> bool:
        """Return whether samples of this request wait."""
        return request_id in self._interactive.requests or request_id in self._jobs.requests

    def oldest_age_s(self, *, now_s: float) -> float:
        """Return the seconds that the oldest sample has waited; 0 if none waits."""
        oldest_s = min(self._interactive.oldest_arrival_s(), self._jobs.oldest_arrival_s())
        return 0.0 if math.isinf(oldest_s) else max(0.0, now_s - oldest_s)

    def _job_allowance(self, limit: int, *, now_s: float) -> int:
        """Return the samples of this batch that jobs get first. Fractions add up over small batches."""
        if now_s - self._jobs.oldest_arrival_s() < self._job_patience_s:
            self._job_credit = 0.0
            return 0
        self._job_credit += limit / JOB_SHARE
        allowance = int(self._job_credit)
        self._job_credit -= allowance
        return allowance

    def _lane(self, pending: PendingChunk) -> _Lane:
        return self._interactive if pending.chunk.is_interactive else self._jobs


def _count(slices: list[SampleSlice]) -> int:
    return sum(len(piece) for piece in slices)
