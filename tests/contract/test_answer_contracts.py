"""One suite each for what answers uploads and for where the events of an answer are written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.components.answer_stage import NO_DEADLINE, Shelf
from support.components.scripted_decoders import Script, ScriptedDecoders
from support.components.unhurried import unhurried_turns

from service.answers.idempotency import Idempotency, IdempotentAnswering
from service.answers.result_cache import CachedAnswers, CachePolicy
from service.answers.shared_answer import SharedAnswer
from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.core.answer_spool import AnswerSpool, AnswerSpoolPolicy
from service.core.pipeline import Pipeline, PipelinePolicy
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, Mask, Rle, Summary
from service.media.spool import Spool
from service.ports import Answering, AnswerSink
from service.predictors.fake import FakePredictor
from service.storage.cache import MemoryCache
from service.storage.keys import FolderKeyStore
from service.telemetry.metrics import Metrics

HANG_S = 60


@dataclass
class Site:
    """Something that answers scripted uploads."""

    answering: Answering
    decoders: ScriptedDecoders
    spool: Spool

    async def ask(self, script: Script, *, deadline: Deadline = NO_DEADLINE, take: int = 10_000) -> list[AnswerEvent]:
        """Return the first `take` events of a new upload's answer."""
        upload = await self.spool.open_upload(max_bytes=10_000)
        await upload.write(script.encode())
        upload.finish()
        key = f"{script}"[:200]
        context = RequestContext("r", "rest", deadline, idempotency_key=key)
        events: list[AnswerEvent] = []
        try:
            async with aclosing(self.answering.answer(upload, SegmentOptions(), context)) as answer:
                async for event in answer:
                    events.append(event)
                    if len(events) == take:
                        break
        finally:
            upload.close()
        return events


@pytest.fixture(params=["pipeline", "cached", "idempotent"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    metrics, clock, decoders = Metrics(), time.monotonic, ScriptedDecoders()
    segmenter = LocalSegmenter(FakePredictor, BatchPolicy(max_batch=8), metrics=metrics, clock=clock)
    await segmenter.start()
    spool = Spool(tmp_path, max_bytes=2**20)
    pipeline = Pipeline(
        segmenter=segmenter,
        spool=spool,
        decoders=decoders,  # type: ignore[arg-type]
        policy=PipelinePolicy(max_queued_bytes=2**20),
        metrics=metrics,
        clock=clock,
    )
    cache = MemoryCache(max_bytes=2**20, ttl_s=60, clock=clock)
    policy = CachePolicy("float32", is_shared=False, max_entry_bytes=2**20, max_shared_bytes=2**20)
    cached = CachedAnswers(
        pipeline, segmenter, cache, policy, spool=spool, turns=unhurried_turns(), metrics=metrics, clock=clock
    )
    keys = Idempotency(FolderKeyStore(None, wall_clock=time.time), ttl_s=60)
    made: dict[str, Answering] = {
        "pipeline": pipeline,
        "cached": cached,
        "idempotent": IdempotentAnswering(pipeline, keys, Shelf(), spool, turns=unhurried_turns(), clock=clock),  # type: ignore[arg-type]
    }
    async with asyncio.timeout(HANG_S):
        yield Site(made[request.param], decoders, spool)
        await segmenter.aclose()


async def test_an_answer_is_a_clip_its_frames_in_order_and_a_summary(site: Site) -> None:
    for _ in range(2):  # computed, and once more from whatever remembers
        started, *frames, summary = await site.ask(Script(num_samples=70))
        assert isinstance(started, ClipStarted)
        assert isinstance(summary, Summary)
        assert summary.num_samples == 70
        assert [frame.index for frame in frames if isinstance(frame, FrameMasks)] == list(range(70))
        assert any(frame.masks for frame in frames if isinstance(frame, FrameMasks))


@pytest.mark.parametrize("after", [0, 8])
async def test_a_failure_comes_after_what_was_ready(site: Site, after: int) -> None:
    with pytest.raises(ServiceError) as caught:
        await site.ask(Script(num_samples=20, error="broken", error_after=after))
    assert caught.value.code == "broken"


async def test_a_deadline_ends_it(site: Site) -> None:
    with pytest.raises(ServiceError) as caught:
        await site.ask(Script(hangs_after=0), deadline=Deadline(time.monotonic() + 0.2))
    assert caught.value.code == "deadline_exceeded"
    await _until_closed(site.decoders)


async def test_closing_it_ends_the_work(site: Site) -> None:
    events = await site.ask(Script(num_samples=100, hangs_after=8), take=2)
    assert len(events) == 2
    await _until_closed(site.decoders)


async def test_labels_that_the_model_lacks_are_refused_early(site: Site) -> None:
    await site.answering.check(SegmentOptions())
    with pytest.raises(ServiceError, match="bad_option"):
        await site.answering.check(SegmentOptions(labels=("bell",)))


async def _until_closed(decoders: ScriptedDecoders) -> None:
    while decoders.num_open:
        decoders.changed.clear()
        await decoders.changed.wait()


@pytest.fixture(params=["spool", "spool on disk", "shared"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnswerSink]:
    made: AnswerSpool | SharedAnswer
    if request.param == "shared":
        made = SharedAnswer(room=Spool(tmp_path, max_bytes=2**20), turns=unhurried_turns(), max_bytes=20_000)
    else:
        memory_bytes = 0 if request.param == "spool on disk" else 2**20
        made = AnswerSpool(
            AnswerSpoolPolicy(memory_bytes=memory_bytes, max_bytes=20_000),
            Spool(tmp_path, max_bytes=2**20),
        )
    yield made
    made.close()


def events_of(sink: AnswerSink) -> AsyncIterator[AnswerEvent]:
    if isinstance(sink, SharedAnswer):
        return sink.read(Deadline(), clock=time.monotonic)
    assert isinstance(sink, AnswerSpool)
    return sink.events()


def frame(index: int, *, num_counts: int = 10) -> FrameMasks:
    mask = Mask("sounding", 0.5, 4, (0, 0, 2, 2), Rle((3, 4), "0" * num_counts))
    return FrameMasks(index + 0.9375, index + 0.9, index, (mask,))


async def test_a_sink_gives_back_what_was_put(sink: AnswerSink) -> None:
    frames = [frame(index) for index in range(20)]
    for one in frames:
        sink.put(one)
    sink.end(Summary(20))
    sink.end(ServiceError("broken", "too late"))
    assert [event async for event in events_of(sink)] == [*frames, Summary(20)]


async def test_a_reader_of_a_sink_waits_for_its_writer(sink: AnswerSink) -> None:
    async def read() -> list[AnswerEvent]:
        return [event async for event in events_of(sink)]

    reading = asyncio.create_task(read())
    for index in range(3):
        await asyncio.sleep(0)
        sink.put(frame(index))
    await asyncio.sleep(0)
    sink.end(Summary(3))
    async with asyncio.timeout(HANG_S):
        assert await reading == [frame(0), frame(1), frame(2), Summary(3)]


async def test_a_sink_tells_a_failure_after_what_was_put(sink: AnswerSink) -> None:
    sink.put(frame(0))
    sink.end(ServiceError("broken", "here"))
    events = events_of(sink)
    assert await anext(events) == frame(0)
    with pytest.raises(ServiceError, match="broken"):
        await anext(events)


async def test_a_sink_is_bounded(sink: AnswerSink) -> None:
    def fill() -> None:
        for index in range(1000):
            sink.put(frame(index, num_counts=5000))

    with pytest.raises(ServiceError, match="storage_full"):
        fill()


async def test_readers_that_keep_up_get_the_events_themselves(tmp_path: Path) -> None:
    shared = SharedAnswer(room=Spool(tmp_path, max_bytes=2**30), turns=unhurried_turns(), max_bytes=10**7)
    first, late = events_of(shared), events_of(shared)
    large = [frame(index, num_counts=300_000) for index in range(8)]
    for one in large:
        shared.put(one)
        assert await anext(first) is one
    reread = [await anext(late) for _ in large]
    assert reread == large
    assert reread[0] is not large[0], "an old event is read from the file"
    assert reread[-1] is large[-1]
    shared.close()
