"""Kept and shared answers over a scripted pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from service.backends.cache_memory import MemoryCache
from service.backends.keys_memory import MemoryKeyStore
from service.backends.predictor_fake import FakePredictor
from service.core.idempotency import Idempotency, IdempotentAnswering
from service.core.result_cache import CachedAnswers, CachePolicy
from service.domain.chunk import Chunk, SegmentedChunk
from service.domain.clip import ClipInfo
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, Summary
from service.media.upload import Spool, Upload
from service.telemetry.metrics import Metrics

HANG_S = 20
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
    """An Answering that gives some frames, when it is let."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.gate = asyncio.Event()
        self.num_started = 0
        self.num_cut = 0
        self.error: ServiceError | None = None

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


class Stage:
    """A cache before a script."""

    def __init__(self, directory: Path) -> None:
        self.metrics = Metrics()
        self.model = Model()
        self.script = Script(self.model)
        self.spool = Spool(directory, max_bytes=2**20)
        self.policy = CachePolicy("float32", max_entry_bytes=10_000, max_shared_bytes=10_000)
        self.store = MemoryCache(max_bytes=100_000, ttl_s=60, clock=time.monotonic)
        self.cached = CachedAnswers(
            self.script, self.model, self.store, self.policy, metrics=self.metrics, clock=time.monotonic
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
        made = replace(RequestContext(name, "rest", NO_DEADLINE), **context)  # type: ignore[arg-type]
        try:
            async with aclosing(self.cached.answer(upload, options or SegmentOptions(), made)) as events:
                return [event async for event in events]
        finally:
            upload.close()

    def lookups(self) -> dict[str, float]:
        samples = next(iter(self.metrics.cache_lookups_total.collect())).samples
        return {row.labels["outcome"]: row.value for row in samples if row.name.endswith("_total")}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with asyncio.timeout(HANG_S):
        yield Stage(tmp_path)


async def test_the_second_answer_is_kept_and_named_anew(stage: Stage) -> None:
    stage.script.gate.set()
    first, second = await stage.ask("one"), await stage.ask("two")
    assert stage.script.num_started == 1
    assert first[1:4] == second[1:4]
    assert isinstance(first[0], ClipStarted)
    assert second[0] == replace(first[0], request_id="two")
    assert isinstance(second[4], Summary)
    assert second[4].cached
    assert second[4].timings_s["decode"] == 0
    assert stage.lookups() == {"miss": 1.0, "hit": 1.0}


async def test_what_changes_the_answer_changes_the_key(stage: Stage) -> None:
    stage.script.gate.set()
    await stage.ask("one")
    await stage.ask("other upload", b"other")
    await stage.ask("other options", options=SegmentOptions(threshold=0.4))
    stage.model.info = replace(stage.model.info, checkpoint="sha256:other")
    await stage.ask("other model")
    assert stage.script.num_started == 4
    await stage.ask("spelled out", options=SegmentOptions(threshold=0.5))
    assert stage.script.num_started == 4


async def test_no_cache_and_growing_uploads_pass_by(stage: Stage) -> None:
    stage.script.gate.set()
    await stage.ask("one")
    await stage.ask("two", may_use_cache=False)
    upload = await stage.upload(is_complete=False)
    context = RequestContext("three", "grpc", NO_DEADLINE)
    assert len([event async for event in stage.cached.answer(upload, SegmentOptions(), context)]) == 5
    upload.close()
    assert stage.script.num_started == 3
    assert stage.lookups() == {"miss": 1.0}


async def test_equal_requests_in_flight_are_one(stage: Stage) -> None:
    asking = [asyncio.create_task(stage.ask(f"r{number}")) for number in range(5)]
    await asyncio.sleep(0.05)
    stage.script.gate.set()
    answers = await asyncio.gather(*asking)
    assert stage.script.num_started == 1
    assert {answer[0].request_id for answer in answers if isinstance(answer[0], ClipStarted)} == {
        f"r{number}" for number in range(5)
    }
    assert all(answer[1:] == answers[0][1:] for answer in answers)
    assert stage.lookups() == {"miss": 1.0, "joined": 4.0}


async def test_the_first_may_leave_and_the_last_ends_it(stage: Stage) -> None:
    first, second = (asyncio.create_task(stage.ask(name)) for name in ("first", "second"))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert stage.script.num_cut == 0
    stage.script.gate.set()
    assert len(await second) == 5
    stage.script.gate.clear()
    third, fourth = (asyncio.create_task(stage.ask(name, b"more")) for name in ("third", "fourth"))
    await asyncio.sleep(0.05)
    for task in (third, fourth):
        task.cancel()
    await asyncio.gather(third, fourth, return_exceptions=True)
    assert stage.script.num_cut == 1
    stage.script.gate.set()
    assert len(await stage.ask("fifth", b"more")) == 5


async def test_each_reader_has_its_own_deadline(stage: Stage) -> None:
    patient = asyncio.create_task(stage.ask("patient"))
    hurried = asyncio.create_task(stage.ask("hurried", deadline=Deadline(time.monotonic() + 0.05)))
    with pytest.raises(ServiceError) as caught:
        await hurried
    assert caught.value.code == "deadline_exceeded"
    stage.script.gate.set()
    assert len(await patient) == 5


async def test_failures_are_shared_and_not_kept(stage: Stage) -> None:
    stage.script.error = ServiceError("broken", "damaged")
    asking = [asyncio.create_task(stage.ask(f"r{number}")) for number in range(3)]
    await asyncio.sleep(0.05)
    stage.script.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [result.code for result in results if isinstance(result, ServiceError)] == ["broken"] * 3
    stage.script.error = None
    assert len(await stage.ask("later")) == 5


async def test_what_is_too_large_is_not_kept_or_not_held(stage: Stage, tmp_path: Path) -> None:
    stage.script.gate.set()
    for policy, is_answered in (
        (replace(stage.policy, max_entry_bytes=10), True),
        (replace(stage.policy, max_shared_bytes=300), False),
    ):
        stage.cached = CachedAnswers(
            stage.script, stage.model, stage.store, policy, metrics=Metrics(), clock=time.monotonic
        )
        if is_answered:
            await stage.ask("one", b"large")
            await stage.ask("two", b"large")
        else:
            with pytest.raises(ServiceError, match="storage_full"):
                await stage.ask("three", b"large")
    assert stage.script.num_started == 3


class Shelf:
    """A BlobStore in memory, of which only whole blobs are used here."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def put(self, name: str, data: bytes) -> None:
        self.blobs[name] = data

    async def put_file(self, name: str, fd: int, *, num_bytes: int) -> None:
        raise AssertionError("not asked for")

    async def get(self, name: str) -> bytes | None:
        return self.blobs.get(name)

    async def read(self, name: str) -> AsyncIterator[bytes]:
        yield self.blobs[name]

    async def delete_all(self, prefix: str, *, older_than_s: float = 0.0) -> None:
        self.blobs.clear()


def keyed(stage: Stage) -> Stage:
    idempotency = Idempotency(MemoryKeyStore(clock=time.monotonic), ttl_s=60)
    stage.cached = IdempotentAnswering(stage.script, idempotency, Shelf())  # type: ignore[assignment]
    return stage


async def test_a_running_key_is_said_to_run_and_then_answers(stage: Stage) -> None:
    keyed(stage)
    first = asyncio.create_task(stage.ask("one", idempotency_key="k"))
    await asyncio.sleep(0.05)
    with pytest.raises(ServiceError) as caught:
        await stage.ask("two", idempotency_key="k")
    assert caught.value.code == "idempotency_in_progress"
    stage.script.gate.set()
    assert await first == await stage.ask("three", idempotency_key="k")
    with pytest.raises(ServiceError) as caught:
        await stage.ask("four", b"other", idempotency_key="k")
    assert caught.value.code == "idempotency_mismatch"
    assert stage.script.num_started == 1
    await stage.ask("five", b"other", idempotency_key="k", owner="another caller")
    await stage.ask("six", b"other", idempotency_key="k", options=SegmentOptions(fps=2))
    assert stage.script.num_started == 3


@pytest.mark.parametrize(
    ("code", "is_remembered"),
    [("broken", True), ("no_audio", True), ("internal", False), ("queue_full", False), ("deadline_exceeded", False)],
)
async def test_only_final_failures_are_remembered(stage: Stage, code: str, is_remembered: bool) -> None:
    keyed(stage)
    stage.script.gate.set()
    stage.script.error = ServiceError(code, "why")
    for _ in range(2):
        with pytest.raises(ServiceError) as caught:
            await stage.ask("r", idempotency_key="k")
        assert caught.value.code == code
    assert stage.script.num_started == (1 if is_remembered else 2)


async def test_a_broken_off_request_frees_its_key(stage: Stage) -> None:
    keyed(stage)
    first = asyncio.create_task(stage.ask("one", idempotency_key="k"))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    stage.script.gate.set()
    assert len(await stage.ask("two", idempotency_key="k")) == 5
