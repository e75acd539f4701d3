"""One suite for every Segmenter: this process's device, and workers across a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.components.chunks import make_chunk
from support.components.queue_parts import REDIS_PARAM, Parts, local_parts, redis_parts

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.predictors.fake import FakePredictor, FakeTiming

HANG_S = 60


@pytest.fixture(params=["local", REDIS_PARAM])
async def parts(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Parts]:
    async with AsyncExitStack() as stack:
        make = local_parts if request.param == "local" else redis_parts
        yield await stack.enter_async_context(make(tmp_path, FakeTiming(batch_s=0.01)))


async def test_describes_its_model(parts: Parts) -> None:
    assert await parts.segmenter.describe() == FakePredictor().info


async def test_answers_each_sample_in_order(parts: Parts) -> None:
    chunk = make_chunk(seed=5, num_samples=7)
    async with asyncio.timeout(HANG_S):
        answer = await parts.segmenter.segment(chunk)
    assert [frame.sample_time_s for frame in answer.frames] == chunk.samples.sample_times_s.tolist()
    assert [frame.timestamp_s for frame in answer.frames] == chunk.samples.timestamps_s.tolist()
    assert [frame.index for frame in answer.frames] == chunk.samples.indexes.tolist()
    assert all(mask.segmentation.size == (96, 128) for frame in answer.frames for mask in frame.masks)
    assert sum(len(frame.masks) for frame in answer.frames) == 7
    assert min(answer.queue_s, answer.predict_s, answer.encode_s) >= 0


async def test_answers_do_not_depend_on_neighbours(parts: Parts) -> None:
    chunks = [
        make_chunk(seed=seed, num_samples=1 + seed % 5, request_id=f"r{seed % 3}", chunk_no=seed) for seed in range(12)
    ]
    async with asyncio.timeout(HANG_S):
        together = await asyncio.gather(*(parts.segmenter.segment(chunk) for chunk in chunks))
        alone = [await parts.segmenter.segment(chunk) for chunk in chunks]
    assert [answer.frames for answer in together] == [answer.frames for answer in alone]


async def test_equal_request_ids_are_not_mixed(parts: Parts) -> None:
    async with asyncio.timeout(HANG_S):
        left, right = await asyncio.gather(*(parts.segmenter.segment(make_chunk(seed=seed)) for seed in (1, 2)))
        assert left.frames == (await parts.segmenter.segment(make_chunk(seed=1))).frames
        assert right.frames == (await parts.segmenter.segment(make_chunk(seed=2))).frames
    assert left.frames != right.frames


async def test_a_passed_deadline_is_said(parts: Parts) -> None:
    with pytest.raises(ServiceError) as caught:
        await parts.segmenter.segment(make_chunk(deadline=Deadline(time.monotonic() - 1)))
    assert caught.value.code == "deadline_exceeded"


async def test_a_cancelled_chunk_leaves_the_others_alone(parts: Parts) -> None:
    async with asyncio.timeout(HANG_S):
        doomed = [asyncio.create_task(parts.segmenter.segment(make_chunk(seed=seed))) for seed in range(6)]
        kept = asyncio.create_task(parts.segmenter.segment(make_chunk(seed=99)))
        await asyncio.sleep(0)
        for task in doomed:
            task.cancel()
        results = await asyncio.gather(*doomed, return_exceptions=True)
        answer = await kept
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert answer.frames == (await parts.segmenter.segment(make_chunk(seed=99))).frames
    assert parts.segmenter.queue_depth == 0


async def test_jobs_are_answered_too(parts: Parts) -> None:
    async with asyncio.timeout(HANG_S):
        answer = await parts.segmenter.segment(make_chunk(seed=3, is_interactive=False))
        assert answer.frames == (await parts.segmenter.segment(make_chunk(seed=3))).frames


async def test_closing_ends_what_waits(parts: Parts) -> None:
    async with asyncio.timeout(HANG_S):
        waiting = [
            asyncio.create_task(parts.segmenter.segment(make_chunk(seed=seed, num_samples=32))) for seed in range(8)
        ]
        await asyncio.sleep(0)
        await parts.segmenter.aclose()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    codes = {result.code for result in results if isinstance(result, ServiceError)}
    assert codes <= {"draining"}
    assert any(isinstance(result, ServiceError) for result in results)


async def test_expecting_is_a_plain_context(parts: Parts) -> None:
    with parts.segmenter.expect("request"):
        async with asyncio.timeout(HANG_S):
            await parts.segmenter.segment(make_chunk())
    assert parts.segmenter.is_idle()
    assert parts.segmenter.is_ready()
    assert parts.segmenter.is_healthy()


async def test_is_ready_once_started_and_predicts_its_wait(parts: Parts) -> None:
    assert parts.segmenter.is_ready()
    assert parts.segmenter.is_healthy()
    async with asyncio.timeout(HANG_S):
        for seed in range(2):
            await parts.segmenter.segment(make_chunk(seed=seed, num_samples=4))
    few_s, many_s = parts.segmenter.predicted_wait_s(1), parts.segmenter.predicted_wait_s(1000)
    assert 0 < few_s < many_s


async def test_closing_ends_waiting_chunks_as_draining(parts: Parts) -> None:
    waiting = [asyncio.create_task(parts.segmenter.segment(make_chunk(seed=seed, num_samples=32))) for seed in range(8)]
    await asyncio.sleep(0)
    async with asyncio.timeout(HANG_S):
        await parts.segmenter.aclose()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    failed = [error for error in ended if isinstance(error, BaseException)]
    assert failed
    assert {error.code for error in failed if isinstance(error, ServiceError)} == {"draining"}
    assert all(isinstance(error, ServiceError) for error in failed)
