"""The local segmenter with real threads: answers, neighbours, cancellations, poison, drain."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest
from support.components.chunks import make_chunk
from support.waiting import until

from service.batching import segmenter as segmenter_module
from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.batching.warm_up import LONG_CALL_S
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.masks import encode_masks
from service.predictors.fake import FakePredictor, FakeTiming
from service.telemetry.metrics import Metrics

# The corner pixel of a frame that the predictor fails on; no random frame has it.
POISON = (251, 3, 7)


class GatedPredictor(FakePredictor):
    """Waits at a gate (open by default), fails on a marked frame, and counts what it was given."""

    def __init__(self, **more) -> None:
        super().__init__(**more)
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[tuple[int, ...]] = []
        self.is_alive = True

    def predict(self, frames, windows):
        assert self.gate.wait(120)
        self.seen += [tuple(frame[0, 0].tolist()) for frame in frames]
        if (frames[:, 0, 0] == POISON).all(axis=1).any() or not self.is_alive:
            raise RuntimeError("bad frame")
        return super().predict(frames, windows)

    def is_healthy(self):
        return self.is_alive


@pytest.fixture(name="start")
async def _start():
    segmenters: list[LocalSegmenter] = []

    async def start(predictor: FakePredictor, **policy) -> tuple[LocalSegmenter, Metrics]:
        metrics = Metrics()
        segmenter = LocalSegmenter(
            lambda: predictor, BatchPolicy(**{"max_batch": 8} | policy), metrics=metrics, clock=time.monotonic
        )
        segmenters.append(segmenter)
        await segmenter.start()
        return segmenter, metrics

    yield start
    for segmenter in segmenters:
        await segmenter.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("device", "encode"))]


def direct(predictor: FakePredictor, chunk) -> list:
    """The masks without batcher, threads or neighbours."""
    logits = predictor.predict(chunk.samples.frames, chunk.samples.windows())
    return [encode_masks(rows, policy=chunk.masks, model=predictor.info) for rows in logits]


async def test_before_start_it_says_so():
    segmenter = LocalSegmenter(FakePredictor, BatchPolicy(), metrics=Metrics(), clock=time.monotonic)
    assert not segmenter.is_ready()
    assert not segmenter.is_idle()
    with pytest.raises(ServiceError, match="warming_up"):
        await segmenter.describe()
    with pytest.raises(ServiceError, match="warming_up"):
        await segmenter.segment(make_chunk("a"))
    await segmenter.aclose()


async def test_a_load_that_fails_is_raised_and_leaves_no_thread():
    def fail() -> FakePredictor:
        raise FileNotFoundError("no checkpoint")

    segmenter = LocalSegmenter(fail, BatchPolicy(), metrics=Metrics(), clock=time.monotonic)
    with pytest.raises(FileNotFoundError):
        await segmenter.start()
    await segmenter.aclose()
    assert not [thread for thread in threading.enumerate() if thread.name == "device"]


class CpuPredictor(FakePredictor):
    """Calls itself a CPU. Batches of two samples or more wait at a gate and may fail."""

    def __init__(self, *, failing_size: int = 0, call_s: float = 0.0) -> None:
        super().__init__(timing=FakeTiming(batch_s=call_s))
        self.gate, self.failing_size = threading.Event(), failing_size
        self.sizes: list[int] = []
        self.threads: set[int] = set()

    @property
    def device_facts(self):
        return {"device": "cpu", "dtype": "float32"}

    def predict(self, frames, windows):
        self.sizes.append(len(frames))
        self.threads.add(threading.get_ident())
        if len(frames) > 1:
            assert self.gate.wait(120)
        if len(frames) == self.failing_size:
            raise RuntimeError("cannot")
        return super().predict(frames, windows)


async def test_on_a_cpu_larger_shapes_are_warmed_up_after_the_start_and_between_batches(start):
    predictor = CpuPredictor()
    segmenter, _ = await start(predictor)
    assert segmenter.is_ready()
    assert segmenter.max_batch == 1
    chunks = [make_chunk(f"r{number}", 3, chunk_no=number) for number in range(4)]
    answering = [asyncio.create_task(segmenter.segment(chunk)) for chunk in chunks]
    await until(lambda: 2 in predictor.sizes)  # the warm-up holds the device
    predictor.gate.set()
    for chunk, answer in zip(chunks, await asyncio.gather(*answering), strict=True):
        assert [frame.masks for frame in answer.frames] == direct(predictor, chunk)
    await until(lambda: segmenter.max_batch == 8)
    assert (await segmenter.segment(make_chunk("later", 8))).frames


async def test_where_calls_are_long_the_warm_up_waits_for_rest_and_all_threads_work(start):
    predictor = CpuPredictor(call_s=LONG_CALL_S)
    predictor.gate.set()
    segmenter, _ = await start(predictor, parallel_calls=2)
    with segmenter.expect("a"):
        assert len((await segmenter.segment(make_chunk("a", 4))).frames) == 4
        assert set(predictor.sizes) == {1}
        assert len(predictor.threads) == 2
    await until(lambda: 2 in predictor.sizes)


async def test_where_calls_are_long_the_warm_up_comes_to_its_end_beside_requests_too(start, monkeypatch):
    monkeypatch.setattr(segmenter_module, "WARM_UP_PAUSE_CALLS", 1)
    predictor = CpuPredictor(call_s=LONG_CALL_S)
    predictor.gate.set()
    segmenter, _ = await start(predictor, parallel_calls=2)
    with segmenter.expect("never"):
        await until(lambda: segmenter.max_batch == 8)


async def test_a_larger_shape_that_fails_at_warm_up_is_left_out(start):
    predictor = CpuPredictor(failing_size=4)
    predictor.gate.set()
    segmenter, _ = await start(predictor)
    await until(lambda: 4 in predictor.sizes)
    chunk = make_chunk("a", 5)
    assert [frame.masks for frame in (await segmenter.segment(chunk)).frames] == direct(FakePredictor(), chunk)
    assert segmenter.max_batch == 2
    assert max(predictor.sizes) == 4


async def test_a_segmenter_can_be_closed_while_it_warms_up(start):
    predictor = CpuPredictor()
    segmenter, _ = await start(predictor)
    await until(lambda: 2 in predictor.sizes)
    closing = asyncio.create_task(segmenter.aclose())
    await asyncio.sleep(0)
    predictor.gate.set()
    await closing
    assert max(predictor.sizes) == 2


@pytest.mark.parametrize("labels", [("sounding",), ("bell", "dog", "horn")])
async def test_answers_equal_the_direct_way_whatever_the_neighbours(start, labels):
    predictor = FakePredictor(labels=labels)
    segmenter, metrics = await start(predictor)
    chunks = [
        make_chunk(f"r{number % 9}", 1 + number % 11, chunk_no=number, labels=labels, is_loud=number % 5 > 0)
        for number in range(40)
    ]
    with segmenter.expect("r0"):
        answers = await asyncio.gather(*(segmenter.segment(chunk) for chunk in chunks))
    num_masks = 0
    for chunk, answer in zip(chunks, answers, strict=True):
        assert [frame.masks for frame in answer.frames] == direct(predictor, chunk)
        assert [frame.sample_time_s for frame in answer.frames] == list(chunk.samples.sample_times_s)
        num_masks += sum(len(frame.masks) for frame in answer.frames)
    assert num_masks > 50
    total = sum(len(chunk.samples) for chunk in chunks)
    assert metrics.registry.get_sample_value("avesformer_samples_total") == total
    assert metrics.registry.get_sample_value("avesformer_batch_size_sum") == total
    assert segmenter.queue_depth == 0
    assert segmenter.samples_per_s > 0


async def test_a_poison_request_among_good_ones_fails_alone(start):
    predictor = GatedPredictor()
    segmenter, _ = await start(predictor)
    good = [make_chunk(f"good{number}", 3) for number in range(4)]
    poison = make_chunk("poison", 3)
    poison.samples.frames[1, 0, 0] = POISON
    predictor.gate.clear()
    first = asyncio.create_task(segmenter.segment(make_chunk("first", 1)))
    tasks = [asyncio.create_task(segmenter.segment(chunk)) for chunk in (good[0], poison, *good[1:])]
    await asyncio.sleep(0.01)
    predictor.gate.set()
    answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert answers[2].code == "internal"
    for chunk, answer in zip(good, [answers[1], *answers[3:]], strict=True):
        assert [frame.masks for frame in answer.frames] == direct(predictor, chunk)
    assert segmenter.is_healthy()


async def test_cancellations_at_random_moments_leave_nothing(start):
    rng = random.Random(3)
    predictor = GatedPredictor()
    segmenter, _ = await start(predictor, window_s=0.001)

    async def caller(number: int) -> bool:
        task = asyncio.create_task(segmenter.segment(make_chunk(f"r{number}", rng.randint(1, 12))))
        if number % 2:
            await asyncio.sleep(rng.random() * 0.01)
            task.cancel()
        answers = await asyncio.gather(task, return_exceptions=True)
        return not isinstance(answers[0], BaseException)

    answered = await asyncio.wait_for(asyncio.gather(*(caller(number) for number in range(120))), 120)
    assert all(answered[0::2])
    assert segmenter.queue_depth == 0
    for _ in range(1000):
        if segmenter.is_idle():
            break
        await asyncio.sleep(0.01)
    assert segmenter.is_idle()


async def test_cancelled_samples_are_never_predicted(start):
    predictor = GatedPredictor()
    segmenter, _ = await start(predictor, max_batch=1)
    predictor.seen.clear()
    predictor.gate.clear()
    stays, leaves = make_chunk("stays", 1), make_chunk("leaves", 5)
    stays.samples.frames[:, 0, 0] = (1, 2, 3)
    leaves.samples.frames[:, 0, 0] = (9, 9, 9)
    first = asyncio.create_task(segmenter.segment(stays))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(segmenter.segment(leaves))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    predictor.gate.set()
    await first
    assert await segmenter.segment(make_chunk("after", 1))
    assert (1, 2, 3) in predictor.seen
    assert (9, 9, 9) not in predictor.seen


async def test_a_dead_device_is_seen_by_requests_and_health(start):
    predictor = GatedPredictor()
    segmenter, metrics = await start(predictor)
    predictor.is_alive = False
    with pytest.raises(ServiceError, match="backend_down"):
        await segmenter.segment(make_chunk("a"))
    assert not segmenter.is_healthy()
    assert not segmenter.is_ready()
    with pytest.raises(ServiceError, match="backend_down"):
        await segmenter.segment(make_chunk("b"))
    assert metrics.registry.get_sample_value("avesformer_worker_up") == 0


async def test_deadlines_end_calls_while_the_device_hangs(start):
    predictor = GatedPredictor()
    segmenter, _ = await start(predictor)
    predictor.gate.clear()
    deadline = Deadline.after(0.05, clock=time.monotonic)
    calls = [segmenter.segment(make_chunk(f"r{number}", deadline=deadline)) for number in range(5)]
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    assert [answer.code for answer in answers] == ["deadline_exceeded"] * 5
    predictor.gate.set()


async def test_closing_answers_everyone(start):
    predictor = GatedPredictor()
    segmenter, _ = await start(predictor)
    predictor.gate.clear()
    tasks = [asyncio.create_task(segmenter.segment(make_chunk(f"r{number}"))) for number in range(6)]
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(segmenter.aclose())
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert [answer.code for answer in answers] == ["draining"] * 6
    predictor.gate.set()
    await closing
