"""Result cache, which also computes the masks of equal concurrent requests only once.

The cache key consists of the upload's hash, the effective options, the checkpoint, the compute type and
`PIPELINE_VERSION`, so that a hit equals a computed answer; and of the caller's API key unless callers share answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

from service.aio.tasks import end_tasks
from service.aio.turns import Turns
from service.aio.waits import bounded_wait, ends_within
from service.answers.shared_answer import SharedAnswer
from service.codec.answer_json import decode_stored_line
from service.core.pipeline import Pipeline
from service.domain.deadline import Clock, Deadline, deadline_exceeded
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import ANSWER_DECIMALS, ModelInfo, Summary
from service.media.spool import Spool
from service.media.spool_file import SpoolFile
from service.media.upload import Upload
from service.ports import ResultCache, Segmenter
from service.postprocess.stages import AnswerStages, mask_options
from service.telemetry.metrics import Metrics

# Raise this with every change that can change the bytes of an answer: sampling, audio windows, mask encoding.
PIPELINE_VERSION = 2
# Bytes of a cached answer that stay in memory while it is read; a larger one waits for its reader on disk.
_MEMORY_BYTES = 1024**2
# More bytes than any upload has; waiting for this many means waiting for the end of the upload.
_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Limits of the result cache.

    Attributes:
        dtype: compute type; part of the key.
        is_shared: whether callers with different API keys share answers. If they do, `cached` and the response time
            reveal that another caller has uploaded the same clip.
        max_entry_bytes: larger answers are not cached.
        max_shared_bytes: size limit of an answer that several readers share.
        growing_wait_s: uploads that complete within this time use the cache. Slower uploads skip the cache so that
            their first masks are not delayed.
    """

    dtype: str
    is_shared: bool
    max_entry_bytes: int
    max_shared_bytes: int
    growing_wait_s: float = 0.1


@dataclass(slots=True)
class _Computed:
    """An answer that is being computed, and the number of its readers."""

    answer: SharedAnswer
    work: asyncio.Task[None]
    num_readers: int = 0
    is_kept: bool = False


class CachedAnswers:
    """Returns answers from the cache, or computes them once for all equal requests. Implements `ports.Answering`.

    Args:
        pipeline: computes answers.
        segmenter: describes the model, which is part of the key.
        cache: stores encoded answers.
        policy: limits.
        spool: room for answers in progress that several readers share, and for cached ones while they are read.
        turns: turns of readers of cached answers.
        metrics: counts lookups as hit, miss or joined.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        segmenter: Segmenter,
        cache: ResultCache,
        policy: CachePolicy,
        *,
        spool: Spool,
        turns: Turns,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._segmenter = segmenter
        self._cache = cache
        self._policy = policy
        self._spool = spool
        self._turns = turns
        self._metrics = metrics
        self._clock = clock
        self._computed: dict[tuple[str, bool], _Computed] = {}

    async def check(self, options: SegmentOptions) -> None:
        """Raise a ServiceError if the options cannot be served, before the upload is read."""
        await self._pipeline.check(options)

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the answer: cached, shared with an equal request in progress, or computed."""
        if not context.may_use_cache or not await self._completes_soon(upload):
            async with aclosing(self._pipeline.answer(upload, options, context)) as events:
                async for event in events:
                    yield event
            return
        stages = AnswerStages(options)
        async with self._masks(upload, mask_options(options), context) as events:
            async for event in events:
                named = replace(event, request_id=context.request_id) if isinstance(event, ClipStarted) else event
                for staged in stages.add(named):
                    yield staged

    async def _completes_soon(self, upload: Upload) -> bool:
        """Return whether the upload completes within `growing_wait_s`. Raises the error of an aborted upload."""
        return upload.is_complete or await ends_within(self._policy.growing_wait_s, upload.wait_for(_ALL))

    @asynccontextmanager
    async def _masks(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """Yield the events of the cached answer, else those of one that is being computed.

        An upload that need not be decoded is freed at once, so that a slow reader occupies none.
        """
        started_s = self._clock()
        async with bounded_wait(
            context.deadline.timeout_s(self._clock), partial(deadline_exceeded, "the look-up in the cache")
        ):
            key = self._key(upload, options, await self._segmenter.describe(), context.owner)
            equal = (key, context.is_interactive)
            kept = None if equal in self._computed else await self._cache.get(key)
        if kept is not None:
            self._metrics.cache_lookups_total.labels("hit").inc()
            upload.drop()
            with self._spool.open_answer(
                max_bytes=len(kept), memory_bytes=_MEMORY_BYTES, party=context.caller.party
            ) as file:
                file.write(kept)
                del kept
                async with aclosing(self._hit(file, context, started_s)) as hit:
                    yield hit
            return
        async with (
            self._sharing(equal, upload, options, context) as shared,
            aclosing(shared.read(context.deadline, clock=self._clock)) as events,
        ):
            yield events

    @asynccontextmanager
    async def _sharing(
        self, equal: tuple[str, bool], upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncIterator[SharedAnswer]:
        """Join the computation of an equal request, or start one. It is ended when its last reader leaves.

        Jobs share with jobs only: they have other limits and a lower priority.
        """
        computed = self._computed.get(equal)
        is_new = computed is None or computed.answer.error is not None
        self._metrics.cache_lookups_total.labels("miss" if is_new else "joined").inc()
        if computed is not None and not is_new:
            upload.drop()
        else:
            computed = self._computed[equal] = self._start(upload, options, context)
        computed.num_readers += 1
        try:
            yield computed.answer
        finally:
            computed.num_readers -= 1
            if not computed.num_readers:
                await self._finish(equal, computed)

    def _start(self, upload: Upload, options: SegmentOptions, context: RequestContext) -> _Computed:
        """Start a computation that can outlive this request. It has no deadline of its own; its readers have."""
        max_bytes = self._policy.max_shared_bytes
        answer = SharedAnswer(room=self._spool, turns=self._turns, party=context.caller.party, max_bytes=max_bytes)
        upload.retain()
        context = replace(context, deadline=Deadline())
        work = asyncio.create_task(self._pipeline.run(upload, options, context, answer), name="shared answer")
        work.add_done_callback(lambda _: upload.close())
        return _Computed(answer, work)

    async def _finish(self, equal: tuple[str, bool], computed: _Computed) -> None:
        """Store a complete answer or cancel an incomplete one. Requests may join while the answer is being stored."""
        answer = computed.answer
        try:
            if answer.is_complete and not computed.is_kept and answer.num_bytes <= self._policy.max_entry_bytes:
                computed.is_kept = True
                await self._cache.put(equal[0], answer.content())
        finally:
            if not computed.num_readers:
                if self._computed.get(equal) is computed:
                    del self._computed[equal]
                await end_tasks([computed.work])
                answer.close()

    def _key(self, upload: Upload, options: SegmentOptions, model: ModelInfo, owner: str) -> str:
        applied = asdict(options.resolve(model))
        scope = "" if self._policy.is_shared else owner
        parts = [upload.sha256, applied, model.checkpoint, self._policy.dtype, PIPELINE_VERSION, scope]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    async def _hit(
        self, file: SpoolFile, context: RequestContext, started_s: float
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the events of a cached answer, the summary with the timings of this request."""
        lines = iter(file.readline, b"")
        async for event in self._turns.paced(map(decode_stored_line, lines)):
            if isinstance(event, Summary):
                came_s = started_s if context.started_at_s is None else context.started_at_s
                spent = {"upload": started_s - came_s, "total": self._clock() - came_s}
                timings_s = {stage: round(spent.get(stage, 0.0), ANSWER_DECIMALS) for stage in event.timings_s}
                yield replace(event, timings_s=timings_s, cached=True)
            else:
                yield event
