"""Protocols between the core and its exchangeable parts. Each has several implementations."""

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
    """Description of a checkpoint: a ModelInfo, or the model's own description with the same attributes."""

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
    @property
    def offset_lag_s(self) -> float: ...


class Predictor(Protocol):
    """The model as the device threads use it: stateless. On a CPU several threads call `predict` at the same time."""

    @property
    def info(self) -> CheckpointInfo:
        """Return the description of the checkpoint."""
        ...

    @property
    def compute_type(self) -> str:
        """Return the number format of the computation, such as `bfloat16`; `emulated` if nothing is computed."""
        ...

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Return facts of the device by name: device (always present), device_name, dtype and versions."""
        ...

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return mask logits for B samples.

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

    def compile(self) -> bool:
        """Make later calls faster, with the same results to the byte. Return whether they will be."""
        ...

    def is_healthy(self) -> bool:
        """Return whether the device still answers; a CUDA context can fail permanently."""
        ...

    def memory_bytes(self) -> int:
        """Return the memory held on the device in bytes; 0 on the CPU."""
        ...


class Segmenter(Protocol):
    """Turns chunks of samples into masks, in this process or across Redis."""

    async def start(self) -> None:
        """Load the model or find a worker that has one; ready on return. Raises any error of loading."""
        ...

    async def aclose(self) -> None:
        """Stop at once. Chunks that still wait or run end with `draining`."""
        ...

    @property
    def compute_type(self) -> str | None:
        """Return the number format that the model computes in; None while loading or if workers choose their own."""
        ...

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Return facts of the predictor's device and driver; empty while loading or if workers have their own."""
        ...

    def is_ready(self) -> bool:
        """Return whether a model was loaded or found and its device answers."""
        ...

    def is_healthy(self) -> bool:
        """Return whether this process can still work. After its device died, only a new process can."""
        ...

    def predicted_wait_s(self, num_samples: int) -> float:
        """Return the expected seconds until `num_samples` more samples are answered; 0 while no rate is known."""
        ...

    async def describe(self) -> ModelInfo:
        """Return the model that answers; raises ServiceError `warming_up` or `backend_down` while there is none."""
        ...

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        """Announce that this request may still send chunks, so that a batch may wait a moment for them."""
        ...

    def is_idle(self) -> bool:
        """Return whether a chunk sent now would start at once, so that it need not wait to fill up."""
        ...

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        """Return the masks of a chunk. Cancelling the call drops its samples from the queue.

        Raises:
            ServiceError: `deadline_exceeded`, `queue_full`, `internal`, `backend_down`, `poison_clip`, `draining`.
        """
        ...


class Answering(Protocol):
    """Turns uploads into the events of their answers: the pipeline, or the cache or idempotency keys before it."""

    async def check(self, options: SegmentOptions) -> None:
        """Refuse a request that cannot be answered before its upload is read.

        Raises:
            ServiceError: `warming_up` or `backend_down` (there is no model), `bad_option` (labels that it lacks).
        """
        ...

    def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Return the events of an answer: one ClipStarted, FrameMasks in order (SoundEvents between them), one Summary.

        Closing the generator ends the work unless another reader waits for it.

        Raises:
            ServiceError: any code of decoding and segmenting; `deadline_exceeded`.
        """
        ...


class JobStore(Protocol):
    """Jobs and their leases. Every call may raise ServiceError `backend_down`.

    A claimed job belongs to its holder while the holder saves it at least once per lease. Then another may claim it.
    """

    async def add(self, job: Job) -> None:
        """Store a new job and queue it."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return the job as last saved."""
        ...

    async def has_expired(self, job_id: str) -> bool:
        """Return whether a job with this id existed and has expired."""
        ...

    async def num_waiting(self) -> int:
        """Return the number of queued jobs."""
        ...

    async def claim(self, holder: str) -> Job | None:
        """Claim a job: one whose lease has expired, else the oldest queued one."""
        ...

    async def save(self, job: Job, *, holder: str) -> bool:
        """Save the job and renew its lease. Return False if it was erased or another holder has claimed it."""
        ...

    async def requeue(self, job: Job, *, holder: str) -> None:
        """Save the job and put it at the head of the queue."""
        ...

    async def settle(self, job: Job, *, holder: str) -> None:
        """Save a job with nothing left to do; it is kept until it expires."""
        ...

    async def erase(self, job_id: str) -> None:
        """Erase the job, whoever holds it."""
        ...

    async def sweep(self) -> Sequence[str]:
        """Erase expired jobs and return their ids, so that their blobs can be deleted."""
        ...


class AnswerSink(Protocol):
    """Receives the events of an answer, for one reader or for many. Writing never waits for a reader."""

    def put(self, event: ClipStarted | FrameMasks) -> None:
        """Add an event. Raises ServiceError `storage_full` if there is no room for it."""
        ...

    def end(self, end: Summary | Exception) -> None:
        """End the answer with its summary or with the error that its readers get. Only the first call counts."""
        ...


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Use of an idempotency key: the fingerprint of the request, and the reply once there is one."""

    fingerprint: str
    reply: bytes | None


class KeyStore(Protocol):
    """Idempotency keys in use. Every call may raise ServiceError `backend_down`."""

    async def begin(self, scope: str, fingerprint: str, *, lease_s: float) -> KeyRecord | None:
        """Reserve a key for a request that starts now. Return its earlier use if it is taken."""
        ...

    async def renew(self, scope: str, *, lease_s: float) -> None:
        """Extend the reservation of a request that still runs."""
        ...

    async def finish(self, scope: str, record: KeyRecord, *, ttl_s: float) -> None:
        """Store the reply."""
        ...

    async def forget(self, scope: str) -> None:
        """Release a key whose request left nothing to store."""
        ...


class ResultCache(Protocol):
    """Encoded answers by key. Entries may disappear at any time; no call raises."""

    async def get(self, key: str) -> bytes | None:
        """Return the answer, or None."""
        ...

    async def put(self, key: str, answer: bytes) -> None:
        """Store an answer."""
        ...
