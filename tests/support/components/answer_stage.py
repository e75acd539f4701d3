"""A cache, idempotency keys or jobs over a scripted pipeline, and a shelf for their blobs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import replace
from pathlib import Path

from support.components.unhurried import unhurried_turns

from service.answers.result_cache import CachedAnswers, CachePolicy
from service.domain.caller import Caller
from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.clip import ClipInfo
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, Summary
from service.media.spool import Spool
from service.media.upload import Upload
from service.ports import AnswerSink
from service.predictors.fake import FakePredictor
from service.storage.cache import MemoryCache
from service.telemetry.metrics import Metrics

NO_DEADLINE = Deadline()


class Model:
    """A Segmenter that only describes itself."""

    def __init__(self) -> None:
        self.info = FakePredictor().info

    async def describe(self) -> ModelInfo:
        return self.info

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        return nullcontext()

    def is_idle(self) -> bool:
        return True

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        raise AssertionError("not asked for")


class Script:
    """A pipeline that gives some frames, when it is let."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.gate = asyncio.Event()
        self.num_started = 0
        self.num_cut = 0
        self.error: Exception | None = None

    async def check(self, options: SegmentOptions) -> None:
        return

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        self.num_started += 1
        model = await self._model.describe()
        clip = ClipInfo(4, 3, "1:1", 2.0, 25.0, 3)
        try:
            yield ClipStarted(context.request_id, model, clip, options.resolve(model))
            for number in range(3):
                await self.gate.wait()
                assert not upload.is_closed
                mask = Mask("sounding", 0.5, 4, (0, 0, 2, 2), Rle((3, 4), "abc"))
                yield FrameMasks(number + 0.9375, float(number), number, (mask,))
            if self.error is not None:
                raise self.error
            yield Summary(3, {"upload": 0.1, "decode": 0.2, "total": 0.5})
        except (GeneratorExit, asyncio.CancelledError):
            self.num_cut += 1
            raise

    async def run(self, upload: Upload, options: SegmentOptions, context: RequestContext, sink: AnswerSink) -> None:
        try:
            async with aclosing(self.answer(upload, options, context)) as events:
                async for event in events:
                    if isinstance(event, Summary):
                        sink.end(event)
                    else:
                        sink.put(event)
        except Exception as error:
            sink.end(error)


class Stage:
    """A cache before a script."""

    def __init__(self, directory: Path) -> None:
        self.metrics = Metrics()
        self.model = Model()
        self.script = Script(self.model)
        self.spool = Spool(directory, max_bytes=2**20)
        self.policy = CachePolicy("float32", is_shared=False, max_entry_bytes=10_000, max_shared_bytes=10_000)
        self.store = MemoryCache(max_bytes=100_000, ttl_s=60, clock=time.monotonic)
        self.turns = unhurried_turns()
        self.cached = self.cache_of(self.policy)

    def cache_of(self, policy: CachePolicy) -> CachedAnswers:
        """A cache over the same store, with another policy."""
        return CachedAnswers(
            self.script,
            self.model,
            self.store,
            policy,
            spool=self.spool,
            turns=self.turns,
            metrics=self.metrics,
            clock=time.monotonic,
        )

    async def upload(self, content: bytes = b"clip", *, is_complete: bool = True) -> Upload:
        made = await self.spool.open_upload(max_bytes=1000)
        await made.write(content)
        if is_complete:
            made.finish()
        return made

    async def ask(
        self, name: str, content: bytes = b"clip", *, options: SegmentOptions | None = None, **context: object
    ) -> list[AnswerEvent]:
        upload = await self.upload(content)
        caller = Caller(key_id=str(context.pop("owner", "")))
        made = replace(RequestContext(name, "rest", NO_DEADLINE, caller=caller), **context)  # type: ignore[arg-type]
        try:
            async with aclosing(self.cached.answer(upload, options or SegmentOptions(), made)) as events:
                return [event async for event in events]
        finally:
            upload.close()

    def lookups(self) -> dict[str, float]:
        samples = next(iter(self.metrics.cache_lookups_total.collect())).samples
        return {row.labels["outcome"]: row.value for row in samples if row.name.endswith("_total")}


class Shelf:
    """Blobs in memory. While `error` is set every call fails with it."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.blobs: dict[str, bytes] = {}
        self.stored_at_s: dict[str, float] = {}
        self.error: ServiceError | None = None

    async def put(self, name: str, data: bytes) -> None:
        self._check()
        self.blobs[name] = data
        self.stored_at_s[name] = self._clock()

    async def put_file(self, name: str, fd: int, *, num_bytes: int) -> None:
        await self.put(name, os.pread(fd, num_bytes, 0))

    async def get(self, name: str) -> bytes | None:
        self._check()
        return self.blobs.get(name)

    async def read(self, name: str) -> AsyncIterator[bytes]:
        self._check()
        if name not in self.blobs:
            raise ServiceError("internal", "A stored file is gone.")
        data = self.blobs[name]
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    async def delete(self, name: str) -> None:
        self._check()
        self.blobs.pop(name, None)

    async def delete_all(self, prefix: str, *, older_than_s: float = 0.0) -> None:
        self._check()
        for name in [name for name in self.blobs if name.startswith(f"{prefix}/")]:
            if self._clock() - self.stored_at_s[name] >= older_than_s:
                del self.blobs[name]

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
