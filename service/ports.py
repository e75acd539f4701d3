"""The Protocols between the core and what can be exchanged behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.result import ModelInfo


class Predictor(Protocol):
    """The model as the device thread sees it: stateless, called by one thread only."""

    @property
    def info(self) -> ModelInfo:
        """What the checkpoint is and takes."""
        ...

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mask logits for B samples.

        Args:
            frames: uint8 (B, input_height, input_width, 3) RGB.
            windows: float32 (B, 15600), 16 kHz mono in [-1, 1].

        Returns:
            float32 (B, K, h, w) at the head's own resolution; K is 1 (binary) or 1 + labels (semantic, background 0).

        Raises:
            MemoryError: the batch does not fit the device; a smaller one may.
            RuntimeError: the device failed.
        """
        ...

    def is_healthy(self) -> bool:
        """Whether the device still answers (a CUDA context can die for good)."""
        ...

    def memory_bytes(self) -> int:
        """Memory held on the device; 0 on the CPU."""
        ...


class Segmenter(Protocol):
    """Chunks of samples in, finished masks out; local or across Redis."""

    async def describe(self) -> ModelInfo:
        """The model that answers; raises ServiceError `warming_up` or `backend_down` while there is none."""
        ...

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        """While open, this request may still send chunks, so a batch may wait a moment for them."""
        ...

    def is_idle(self) -> bool:
        """Whether a chunk sent now would start at once (then a chunk need not wait to fill up)."""
        ...

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        """The masks of a chunk. Cancelling the call drops its samples from the queue.

        Raises:
            ServiceError: `deadline_exceeded`, `queue_full`, `internal`, `backend_down`, `poison_clip`, `draining`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """A chunk that a worker holds under a lease.

    Attributes:
        token: names it within its source.
        chunk: what to segment.
        attempt: 1 for the first delivery.
        is_suspect: its last worker died with it; it must run with no other chunk beside it.
    """

    token: str
    chunk: Chunk
    attempt: int = 1
    is_suspect: bool = False


class ChunkSource(Protocol):
    """Where a worker's chunks come from and their answers go. Every call may raise ServiceError `backend_down`."""

    async def announce(self, info: ModelInfo) -> None:
        """Say that this worker lives and what it runs; repeated well within the lease."""
        ...

    async def take(self, max_samples: int, *, wait_s: float) -> Sequence[Delivery]:
        """New chunks, interactive ones first, until they have `max_samples` samples; the last may pass that.

        Waits up to `wait_s` for one chunk where there is none.
        """
        ...

    async def reclaim(self) -> Delivery | None:
        """A chunk whose worker died, if any; one that has killed two workers while alone is given up inside."""
        ...

    async def start_alone(self, delivery: Delivery) -> None:
        """Note that a suspect is about to run with nothing beside it."""
        ...

    async def renew(self, deliveries: Sequence[Delivery]) -> frozenset[str]:
        """Extend the leases; returns the tokens that are no longer this worker's, or that nobody waits for."""
        ...

    async def complete(self, delivery: Delivery, answer: SegmentedChunk | ServiceError) -> bool:
        """Reply and forget the chunk; False (and no reply) if it is no longer this worker's."""
        ...

    async def release(self, delivery: Delivery) -> None:
        """Give a chunk back untouched, for another worker to take at once."""
        ...

    async def withdraw(self, *, has_failed: bool = False) -> None:
        """Announce that this worker takes no more chunks; `has_failed` says that it ends because its device failed."""
        ...


class JobStore(Protocol):
    """Jobs and who works on them. Every call may raise ServiceError `backend_down`.

    A claimed job is its holder's while it saves it at least once a lease; then it may be claimed by another.
    """

    async def add(self, job: Job) -> None:
        """Keep a new job and queue it."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """The job as last saved."""
        ...

    async def was_known(self, job_id: str) -> bool:
        """Whether such a job was kept and its time is over."""
        ...

    async def num_waiting(self) -> int:
        """Jobs queued."""
        ...

    async def claim(self, holder: str) -> Job | None:
        """The next job to work on: one whose holder stopped saving it, else the oldest queued one."""
        ...

    async def save(self, job: Job, *, holder: str) -> bool:
        """Write it and renew the lease; False if it was erased or is another's by now."""
        ...

    async def give_back(self, job: Job, *, holder: str) -> None:
        """Write it and put it at the head of the queue."""
        ...

    async def settle(self, job: Job, *, holder: str) -> None:
        """Nothing is left to do for it; it is kept for its time."""
        ...

    async def erase(self, job_id: str) -> None:
        """Forget it at once, whoever holds it."""
        ...

    async def sweep(self) -> Sequence[str]:
        """Forget the jobs whose time is over; their ids, for their blobs to go as well."""
        ...


class BlobStore(Protocol):
    """Named bytes that outlive a process. Every call may raise ServiceError `backend_down` or `storage_full`."""

    async def put(self, name: str, data: bytes) -> None:
        """Store bytes; a name that exists gets the new ones."""
        ...

    async def put_file(self, name: str, fd: int, *, num_bytes: int) -> None:
        """Store the first `num_bytes` of an open file, read with `os.pread`."""
        ...

    async def get(self, name: str) -> bytes | None:
        """All bytes of a blob, None if there is none."""
        ...

    def read(self, name: str) -> AsyncIterator[bytes]:
        """The bytes of a large blob piece by piece; raises ServiceError `internal` if there is none."""
        ...

    async def delete_all(self, prefix: str, *, older_than_s: float = 0.0) -> None:
        """Delete every blob under `prefix/` that was stored longer ago than that."""
        ...


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What an idempotency key was used for: the request's fingerprint, and its reply once there is one."""

    fingerprint: str
    reply: bytes | None


class KeyStore(Protocol):
    """Idempotency keys in use. Every call may raise ServiceError `backend_down`."""

    async def begin(self, scope: str, fingerprint: str, *, lease_s: float) -> KeyRecord | None:
        """Take a key for a request that runs now; what it was used for if it was taken before."""
        ...

    async def renew(self, scope: str, *, lease_s: float) -> None:
        """The request still runs."""
        ...

    async def finish(self, scope: str, record: KeyRecord, *, ttl_s: float) -> None:
        """Remember the reply."""
        ...

    async def forget(self, scope: str) -> None:
        """The request left nothing to remember."""
        ...


class ResultCache(Protocol):
    """Encoded answers by key; may forget any of them at any time, and never raises."""

    async def get(self, key: str) -> bytes | None:
        """The answer, if it is still there."""
        ...

    async def put(self, key: str, answer: bytes) -> None:
        """Keep an answer for a while."""
        ...
