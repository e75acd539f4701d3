"""The Protocols between the core and what can be exchanged behind it. Each has several implementations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.job import Job
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, ModelInfo, Summary
from service.media.upload import Upload


class CheckpointInfo(Protocol):
    """What a checkpoint is and takes: a ModelInfo, or the model's own description with the same attributes."""

    @property
    def variant(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def world_version(self) -> int | None: ...
    @property
    def input_height(self) -> int: ...
    @property
    def input_width(self) -> int: ...


class Predictor(Protocol):
    """The model as the device thread sees it: stateless, called by one thread only."""

    @property
    def info(self) -> CheckpointInfo:
        """What the checkpoint is and takes."""
        ...

    @property
    def compute_type(self) -> str:
        """Number format that the model computes in, such as `bfloat16`; `emulated` where nothing is computed."""
        ...

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Where the model runs, by name: device, device_name, dtype and versions; `device` is always there."""
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

    async def start(self) -> None:
        """Load the model or find one; ready when this returns. Raises what loading raises."""
        ...

    async def aclose(self) -> None:
        """Stop at once. Chunks that still wait or run end as `draining`."""
        ...

    @property
    def compute_type(self) -> str | None:
        """Number format that the model computes in; None while it is loaded or where workers choose their own."""
        ...

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Facts of the predictor's device and its driver; empty while it is loaded or where workers have their own."""
        ...

    def is_ready(self) -> bool:
        """Whether a model has been loaded or found, and its device answers."""
        ...

    def is_healthy(self) -> bool:
        """Whether this process can still do its part; after a dead device only a new process can."""
        ...

    def predicted_wait_s(self, num_samples: int) -> float:
        """Return the expected seconds until `num_samples` more samples are answered; 0 while no rate is known."""
        ...

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


class Answering(Protocol):
    """Uploads in, events of their answers out: the pipeline, and what stands before it."""

    async def check(self, options: SegmentOptions) -> None:
        """Refuse what cannot be answered before the upload is read.

        Raises:
            ServiceError: `warming_up` or `backend_down` (there is no model), `bad_option` (labels that it lacks).
        """
        ...

    def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Return the events of an answer: one ClipStarted, FrameMasks in order (SoundEvents between them), one Summary.

        Closing the generator ends the work that nobody else waits for.

        Raises:
            ServiceError: any code that decoding and segmenting have; `deadline_exceeded`.
        """
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


class AnswerSink(Protocol):
    """Where the events of an answer are written, for one reader or for many. Writing never waits for a reader."""

    def put(self, event: ClipStarted | FrameMasks) -> None:
        """Add an event; raises ServiceError `storage_full` where there is no room for it."""
        ...

    def end(self, end: Summary | Exception) -> None:
        """End the answer, well or with what its readers get to see; only the first call counts."""
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
