"""Kept and shared answers over a scripted pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from support.components.answer_stage import NO_DEADLINE, Stage

from service.aio.turns import SLICE_S, Turns
from service.answers.result_cache import CachedAnswers
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import ClipStarted, RequestContext
from service.domain.result import SoundEvent, Summary
from service.storage.cache import MemoryCache
from service.telemetry.metrics import Metrics

HANG_S = 20


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with asyncio.timeout(HANG_S):
        yield Stage(tmp_path)


async def test_the_second_answer_is_kept_and_named_anew(stage: Stage) -> None:
    stage.script.gate.set()
    first, second = await stage.ask("one"), await stage.ask("two")
    assert stage.script.num_started == 1
    assert first[1:-1] == second[1:-1]
    assert isinstance(first[0], ClipStarted)
    assert second[0] == replace(first[0], request_id="two")
    assert isinstance(second[-1], Summary)
    assert second[-1].cached
    assert second[-1].timings_s["decode"] == 0
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


async def test_readers_with_other_options_of_events_share_the_masks(stage: Stage) -> None:
    stage.script.gate.set()
    masks = await stage.ask("one")
    started, event, summary = await stage.ask("two", options=SegmentOptions(only="events"))
    assert stage.script.num_started == 1
    assert isinstance(started, ClipStarted)
    assert started.options.only == "events"
    assert event == masks[-2]
    assert isinstance(event, SoundEvent)
    assert isinstance(summary, Summary)


async def test_callers_share_nothing_unless_they_are_meant_to(stage: Stage) -> None:
    stage.script.gate.set()
    first = await stage.ask("one", owner="alice")
    for owner, num_started in (("bob", 2), ("alice", 2), ("", 3)):
        answer = await stage.ask("again", owner=owner)
        assert stage.script.num_started == num_started
        assert answer[1:4] == first[1:4]


async def test_equal_requests_of_two_callers_at_once_are_computed_twice(stage: Stage) -> None:
    owners = ("alice", "bob", "alice")
    asking = [asyncio.create_task(stage.ask("one", owner=owner)) for owner in owners]
    await asyncio.sleep(0.05)
    stage.script.gate.set()
    await asyncio.gather(*asking)
    assert stage.script.num_started == 2
    assert stage.lookups() == {"miss": 2.0, "joined": 1.0}


async def test_shared_answers_are_told_to_every_caller(stage: Stage) -> None:
    stage.script.gate.set()
    stage.cached = stage.cache_of(replace(stage.policy, is_shared=True))
    for owner in ("alice", "bob", ""):
        await stage.ask("one", owner=owner)
    assert stage.script.num_started == 1
    assert stage.lookups() == {"miss": 1.0, "hit": 2.0}


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
    assert len(await second) == 6
    stage.script.gate.clear()
    third, fourth = (asyncio.create_task(stage.ask(name, b"more")) for name in ("third", "fourth"))
    await asyncio.sleep(0.05)
    for task in (third, fourth):
        task.cancel()
    await asyncio.gather(third, fourth, return_exceptions=True)
    assert stage.script.num_cut == 1
    stage.script.gate.set()
    assert len(await stage.ask("fifth", b"more")) == 6


async def test_each_reader_has_its_own_deadline(stage: Stage) -> None:
    patient = asyncio.create_task(stage.ask("patient"))
    hurried = asyncio.create_task(stage.ask("hurried", deadline=Deadline(time.monotonic() + 0.05)))
    with pytest.raises(ServiceError) as caught:
        await hurried
    assert caught.value.code == "deadline_exceeded"
    stage.script.gate.set()
    assert len(await patient) == 6


@pytest.mark.parametrize(
    ("error", "code"), [(ServiceError("broken", "damaged"), "broken"), (ZeroDivisionError("a bug"), "internal")]
)
async def test_failures_are_shared_and_not_kept(stage: Stage, error: Exception, code: str) -> None:
    stage.script.error = error
    asking = [asyncio.create_task(stage.ask(f"r{number}")) for number in range(3)]
    await asyncio.sleep(0.05)
    stage.script.gate.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [result.code for result in results if isinstance(result, ServiceError)] == [code] * 3
    stage.script.error = None
    assert len(await stage.ask("later")) == 6


async def test_what_is_too_large_is_not_kept_or_not_held(stage: Stage, tmp_path: Path) -> None:
    stage.script.gate.set()
    for policy, is_answered in (
        (replace(stage.policy, max_entry_bytes=10), True),
        (replace(stage.policy, max_shared_bytes=300), False),
    ):
        stage.cached = CachedAnswers(
            stage.script,
            stage.model,
            stage.store,
            policy,
            spool=stage.spool,
            turns=stage.turns,
            metrics=Metrics(),
            clock=time.monotonic,
        )
        if is_answered:
            await stage.ask("one", b"large")
            await stage.ask("two", b"large")
        else:
            with pytest.raises(ServiceError, match="storage_full"):
                await stage.ask("three", b"large")
    assert stage.script.num_started == 3


async def test_answers_in_progress_are_counted_against_the_spool(stage: Stage) -> None:
    asking = asyncio.create_task(stage.ask("one"))
    await asyncio.sleep(0.05)
    uploaded_bytes = len(b"clip")
    assert stage.spool.used_bytes > uploaded_bytes
    stage.script.gate.set()
    await asking
    assert stage.spool.used_bytes == 0


async def test_a_full_spool_fails_the_answer_and_frees_everything(stage: Stage) -> None:
    stage.script.gate.set()
    stage.spool.reserve(stage.spool.max_bytes - 100)
    with pytest.raises(ServiceError, match="storage_full"):
        await stage.ask("one")
    await asyncio.sleep(0)  # the upload's second owner closes it in a callback
    assert stage.spool.used_bytes == stage.spool.max_bytes - 100


async def test_an_upload_that_ends_soon_is_looked_up(stage: Stage) -> None:
    stage.script.gate.set()
    await stage.ask("one")
    upload = await stage.upload(b"cl", is_complete=False)

    async def send() -> None:
        await asyncio.sleep(0.01)
        await upload.write(b"ip")
        upload.finish()

    sending = asyncio.create_task(send())
    cached = stage.cache_of(replace(stage.policy, growing_wait_s=HANG_S))
    context = RequestContext("two", "grpc", NO_DEADLINE)
    events = [event async for event in cached.answer(upload, SegmentOptions(), context)]
    await sending
    upload.close()
    assert stage.script.num_started == 1
    assert isinstance(events[-1], Summary)
    assert events[-1].cached


async def test_an_upload_that_breaks_off_soon_says_why(stage: Stage) -> None:
    upload = await stage.upload(is_complete=False)
    upload.abort(ServiceError("slow_upload", "too slow"))
    context = RequestContext("one", "grpc", NO_DEADLINE)
    with pytest.raises(ServiceError, match="slow_upload"):
        _ = [event async for event in stage.cached.answer(upload, SegmentOptions(), context)]
    upload.close()
    assert stage.script.num_started == 0


class StuckCache(MemoryCache):
    """A cache that does not answer."""

    async def get(self, key: str) -> bytes | None:
        await asyncio.Event().wait()
        raise AssertionError("never")


async def test_a_cache_that_does_not_answer_holds_nobody_past_its_deadline(stage: Stage) -> None:
    stuck = StuckCache(max_bytes=1000, ttl_s=60, clock=time.monotonic)
    stage.cached = CachedAnswers(
        stage.script,
        stage.model,
        stuck,
        stage.policy,
        spool=stage.spool,
        turns=stage.turns,
        metrics=stage.metrics,
        clock=time.monotonic,
    )
    with pytest.raises(ServiceError) as caught:
        await stage.ask("one", deadline=Deadline(time.monotonic() + 0.05))
    assert caught.value.code == "deadline_exceeded"


async def test_who_reads_a_cached_answer_holds_no_upload(stage: Stage) -> None:
    stage.script.gate.set()
    await stage.ask("one")
    await asyncio.sleep(0)  # the first upload is closed when its work has ended
    upload = await stage.upload()
    context = RequestContext("two", "rest", NO_DEADLINE)
    async with aclosing(stage.cached.answer(upload, SegmentOptions(), context)) as events:
        await anext(events)
        assert upload.is_closed
        assert stage.spool.used_bytes == 0
        assert stage.spool.memory_bytes > 0
    assert stage.spool.memory_bytes == 0
    upload.close()


async def test_who_joins_an_answer_holds_no_upload(stage: Stage) -> None:
    first = asyncio.create_task(stage.ask("one"))
    await asyncio.sleep(0.05)
    upload = await stage.upload()
    context = RequestContext("two", "rest", NO_DEADLINE)
    async with aclosing(stage.cached.answer(upload, SegmentOptions(), context)) as events:
        await anext(events)
        assert upload.is_closed
        stage.script.gate.set()
        assert len([event async for event in events]) == 5
    await first
    upload.close()


async def test_an_overlay_of_a_cached_answer_still_has_its_clip(stage: Stage) -> None:
    stage.script.gate.set()
    await stage.ask("one")
    upload = await stage.upload()
    upload.keep()
    context = RequestContext("two", "rest", NO_DEADLINE)
    async with aclosing(stage.cached.answer(upload, SegmentOptions(), context)) as events:
        assert len([event async for event in events]) == 6
    assert not upload.is_closed
    upload.close()


async def test_readers_of_cached_answers_take_turns(stage: Stage) -> None:
    """Without turns one reader would have all its events before the loop runs anything else."""
    now_s, order = 0.0, []

    def clock() -> float:
        nonlocal now_s
        now_s += SLICE_S / 2
        return now_s

    stage.script.gate.set()
    await stage.ask("one")
    stage.turns = Turns(clock=clock)
    stage.cached = stage.cache_of(stage.policy)

    async def read(name: str) -> None:
        upload = await stage.upload()
        context = RequestContext(name, "rest", NO_DEADLINE)
        async with aclosing(stage.cached.answer(upload, SegmentOptions(), context)) as events:
            async for _ in events:
                order.append(name)

    await asyncio.gather(read("a"), read("b"))
    assert sorted(order) == list("aaaaaabbbbbb")
    assert order[:6] not in (list("aaaaaa"), list("bbbbbb"))
