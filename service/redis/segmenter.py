"""The front's side of the chunk queue: sends chunks to workers and receives masks on a reply stream of its own.

The bytes of a chunk are stored under a key that expires; the stream entry refers to that key. Outstanding chunks stay
in memory until they are answered, so a chunk that Redis loses is sent again. If Redis or the workers are unreachable
for too long, chunks fail as `backend_down`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from service.aio.byte_budget import ByteBudget
from service.aio.tasks import end_tasks
from service.aio.waits import bounded_wait
from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.deadline import Clock, deadline_exceeded
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.redis.link import (
    GroupMissingError,
    RedisLink,
    backend_down,
    fields_of,
    replies_name,
)
from service.redis.model_directory import WorkerDirectory
from service.redis.outstanding import OutstandingChunk, OutstandingChunks
from service.redis.served_models import ServedModels
from service.redis.wire import WireError, decode_answer
from service.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_REPLY_WAIT_MS = 1000
_REPLY_BATCH = 64
_RETRY_S = 0.2
# Bytes reserved for a message's header in the budget of outstanding bytes.
_HEADER_BYTES = 4096
_RATE_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class RedisSegmenterPolicy:
    """Limits of a front's use of Redis.

    Attributes:
        max_outstanding_bytes: limit on the bytes of unanswered chunks; further chunks wait.
        payload_ttl_s: lifetime of a chunk's bytes in Redis.
        watch_s: interval at which workers and outstanding chunks are checked.
        outage_grace_s: outage of Redis after which outstanding chunks fail.
        worker_grace_s: time without any worker, such as during a restart, after which outstanding chunks fail.
        max_sends: most times that one chunk is sent, including the first.
    """

    max_outstanding_bytes: int
    payload_ttl_s: float = 60.0
    watch_s: float = 1.0
    outage_grace_s: float = 3.0
    worker_grace_s: float = 30.0
    max_sends: int = 5


class RedisSegmenter:
    """`ports.Segmenter` over Redis. Does not need torch.

    Args:
        jobs: the Redis of the streams and of the worker directory.
        data: the Redis of payloads and replies; may be the same.
        policy: limits.
        metrics: counts live workers and waiting samples.
        clock: seconds, monotonic.
    """

    def __init__(
        self, jobs: RedisLink, data: RedisLink, policy: RedisSegmenterPolicy, *, metrics: Metrics, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._data = data
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._front = uuid.uuid4().hex
        self._budget = ByteBudget(policy.max_outstanding_bytes)
        self._outstanding = OutstandingChunks(
            jobs,
            data,
            front=self._front,
            payload_ttl_s=policy.payload_ttl_s,
            max_sends=policy.max_sends,
            clock=clock,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        directory = WorkerDirectory(jobs, metrics=metrics)
        self._models = ServedModels(directory, metrics=metrics, clock=clock, grace_s=policy.worker_grace_s)
        self._samples_per_s = 0.0
        self._last_answer_s: float | None = None
        self.num_dropped_replies = 0

    async def start(self) -> None:
        """Start to listen. Returns when the first worker is live, without a timeout."""
        self._spawn(self._forever(self._read_replies))
        self._spawn(self._forever(self._watch))
        await self._models.wait_for_first()

    async def aclose(self) -> None:
        """Fail outstanding chunks, stop listening, delete all data of this front from Redis."""
        for entry in self._outstanding:
            entry.fail(ServiceError("draining", "The service is shutting down; send the request again."))
        await asyncio.sleep(0)
        await end_tasks(self._tasks)
        try:
            await self._data.call("UNLINK", replies_name(self._front))
        except ServiceError:
            logger.info("redis was unreachable at shutdown")

    def is_healthy(self) -> bool:
        """Always True: a front has no device."""
        return True

    def is_ready(self) -> bool:
        """Whether a worker has ever been live. Later outages fail single requests as `backend_down`."""
        return self._models.has_model

    @property
    def queue_depth(self) -> int:
        """Number of samples that were sent and are not answered."""
        return self._outstanding.num_samples

    @property
    def samples_per_s(self) -> float:
        """Samples answered per second (moving average); 0 before the first answer."""
        return self._samples_per_s

    def predicted_wait_s(self, num_samples: int) -> float:
        """Return the seconds until `num_samples` more samples would be answered, after the outstanding ones."""
        rate = self.samples_per_s
        return (self.queue_depth + num_samples) / rate if rate else 0.0

    @property
    def compute_type(self) -> str | None:
        """None: each worker chooses its own, which its `/version` reports."""
        return None

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Empty: each worker has its own device; its `/version`, metrics and log tell."""
        return {}

    async def describe(self) -> ModelInfo:
        """Return the model of the live workers. The current model stays while one of its workers is live."""
        return await self._models.choose()

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        """No-op: the workers form the batches."""
        return nullcontext()

    def is_idle(self) -> bool:
        """Return whether this front has fewer outstanding chunks than there are live workers."""
        return len(self._outstanding) < self._models.num_workers

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        """Return the masks of a chunk, computed by any worker. Raises ServiceError."""
        num_bytes = chunk.samples.num_bytes + _HEADER_BYTES
        async with bounded_wait(chunk.deadline.timeout_s(self._clock), partial(deadline_exceeded, "predict")):
            await self._budget.acquire(num_bytes)
            try:
                return await self._send_and_wait(chunk)
            finally:
                self._budget.release(num_bytes)

    async def _send_and_wait(self, chunk: Chunk) -> SegmentedChunk:
        if self._is_out():
            raise backend_down()
        model = await self._models.of_checkpoint(chunk.checkpoint)
        entry = OutstandingChunk(
            chunk=replace(chunk, checkpoint=model.checkpoint),
            model=model,
            ref=uuid.uuid4().hex,
            answer=asyncio.get_running_loop().create_future(),
            sent_at_s=self._clock(),
        )
        self._outstanding.add(entry)
        self._metrics.queue_depth.set(self.queue_depth)
        try:
            await self._outstanding.send(entry)
            answer = await entry.answer
        except BaseException:
            self._spawn(self._outstanding.retire(entry))
            raise
        finally:
            self._outstanding.remove(entry)
            self._metrics.queue_depth.set(self.queue_depth)
        elapsed_s = self._clock() - entry.sent_at_s
        return replace(answer, queue_s=max(0.0, elapsed_s - answer.predict_s - answer.encode_s))

    async def _read_replies(self) -> None:
        name = replies_name(self._front)
        reply = await self._data.call("XREAD", "COUNT", _REPLY_BATCH, "BLOCK", _REPLY_WAIT_MS, "STREAMS", name, "0")
        messages = reply[0][1] if reply else []
        for _, fields in messages:
            self._take_reply(fields_of(fields))
        if messages:
            await self._data.call("XDEL", name, *(message_id for message_id, _ in messages))

    def _take_reply(self, fields: dict[bytes, bytes]) -> None:
        entry = self._outstanding.find(fields.get(b"ref", b"").decode("ascii", "replace"))
        if entry is None or entry.answer.done():
            self.num_dropped_replies += 1  # answered by another attempt, or no longer awaited
            return
        body = fields.get(b"body", b"")
        if not body:
            self._spawn(self._outstanding.send_again(entry))  # the worker found no payload
            return
        try:
            answer = decode_answer(body)
        except WireError:
            logger.error("a worker sent an unreadable answer")
            answer = ServiceError("internal", "A worker's answer could not be read.")
        if isinstance(answer, ServiceError):
            entry.fail(answer)
            return
        if len(answer.frames) != len(entry.chunk.samples):
            entry.fail(ServiceError("internal", "A worker's answer does not match its chunk."))
            return
        self._note_rate(len(answer.frames))
        entry.answer.set_result(answer)

    def _note_rate(self, num_samples: int) -> None:
        now_s = self._clock()
        if self._last_answer_s is not None and now_s > self._last_answer_s:
            rate = num_samples / (now_s - self._last_answer_s)
            weight = _RATE_WEIGHT if self._samples_per_s else 1.0
            self._samples_per_s += weight * (rate - self._samples_per_s)
        self._last_answer_s = now_s

    async def _watch(self) -> None:
        """Fail chunks that cannot be answered any more, and send lost chunks again."""
        try:
            await self._models.refresh()
            await self._outstanding.audit()
        finally:
            for entry in self._outstanding:
                if self._is_out() or not self._models.is_served(entry.model):
                    entry.fail(backend_down())
        await asyncio.sleep(self._policy.watch_s)

    def _is_out(self) -> bool:
        return max(self._jobs.down_for_s, self._data.down_for_s) > self._policy.outage_grace_s

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step forever. A failed step is retried."""
        while True:
            try:
                await step()
            except (ServiceError, GroupMissingError):
                await asyncio.sleep(_RETRY_S)
            except Exception:
                logger.exception("listening to the workers failed")
                await asyncio.sleep(_RETRY_S)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
