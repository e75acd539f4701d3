"""When a batch leaves and what becomes of its samples; the device and the encoder are in the test's hands."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from support.components.batcher_bench import encode, settle

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError


async def test_a_lone_request_never_waits(make_bench):
    bench = make_bench(is_open=True)
    with bench.batcher.expect("a"):
        answer = await asyncio.wait_for(bench.send("a", 3), 60)
    assert [frame.index for frame in answer.frames] == [0, 1, 2]
    assert bench.device.sizes() == [3]


async def test_a_batch_waits_for_a_request_that_is_on_its_way(make_bench):
    bench = make_bench(is_open=True)
    with bench.batcher.expect("a"), bench.batcher.expect("b"):
        first = bench.send("a", 2)
        await settle()
        assert bench.device.sizes() == []
        second = bench.send("b", 1)
        await asyncio.wait_for(asyncio.gather(first, second), 60)
    assert bench.device.sizes() == [3]
    assert bench.value("batch_requests_sum") == 2
    assert bench.value("batch_size_sum") == 3


@pytest.mark.parametrize(("is_live", "sizes"), [(False, [1]), (True, [1, 1])])
async def test_a_request_that_was_answered_may_come_again_but_no_frame_of_a_stream(make_bench, is_live, sizes):
    """A stream goes on when a frame is answered and another one is announced."""
    bench = make_bench(is_open=True)
    with bench.batcher.expect("a"):
        await bench.send("a", is_live=is_live)
    bench.send("b")
    await settle()
    assert bench.device.sizes() == sizes


async def test_a_batch_leaves_when_the_other_request_ends(make_bench):
    bench = make_bench(is_open=True)
    with bench.batcher.expect("b"):
        first = bench.send("a", 2)
        await settle()
        assert bench.device.sizes() == []
    await asyncio.wait_for(first, 60)


async def test_a_batch_leaves_when_it_is_full(make_bench):
    bench = make_bench(is_open=True)
    with bench.batcher.expect("never"):
        await asyncio.wait_for(bench.send("a", 8), 60)
    assert bench.device.sizes() == [8]


async def test_a_batch_leaves_when_its_window_is_over(make_bench):
    bench = make_bench(window_s=5.0)
    with bench.batcher.expect("never"):
        bench.send("a", 2)
        await settle()
        assert bench.device.sizes() == []
        bench.clock.advance(5.0)
        bench.send("b", 1)
        await settle()
    assert bench.device.sizes() == [3]
    assert bench.value("batch_wait_seconds_sum") == 5.0


async def test_the_window_ends_by_itself(make_bench):
    bench = make_bench(window_s=0.001, is_open=True)
    bench.batcher._clock = asyncio.get_running_loop().time
    with bench.batcher.expect("never"):
        await asyncio.wait_for(bench.send("a", 2), 60)


async def test_samples_gather_while_the_device_is_busy(make_bench):
    bench = make_bench()
    bench.send("a", 1)
    await settle()
    for name in "bcd":
        bench.send(name, 1)
    await settle()
    assert bench.device.sizes() == [1]
    bench.device.gates[0].set()
    await settle()
    assert bench.device.sizes() == [1, 3]


async def test_a_full_batch_is_prefetched_while_another_runs_and_no_more(make_bench):
    bench = make_bench(max_batch=4)
    bench.send("a", 16)
    await settle()
    assert bench.device.sizes() == [4, 4]
    bench.device.gates[0].set()
    await settle()
    assert bench.device.sizes() == [4, 4, 4]


async def test_a_chunk_over_several_batches_is_answered_once_in_order(make_bench):
    bench = make_bench(max_batch=4, is_open=True)
    answer = await asyncio.wait_for(bench.send("a", 10), 60)
    assert [frame.index for frame in answer.frames] == list(range(10))
    assert sorted(bench.device.sizes()) == [2, 4, 4]
    assert answer.predict_s == 0.75
    assert bench.value("samples_total") == 10


async def test_cancelled_samples_never_reach_the_device(make_bench):
    bench = make_bench()
    bench.send("a", 1)
    await settle()
    gone, stays = bench.send("gone", 3), bench.send("stays", 1)
    await settle()
    assert bench.value("queue_depth") == 4
    gone.cancel()
    await settle()
    assert bench.value("queue_depth") == 1
    bench.device.gates[0].set()
    await settle()
    assert [piece.pending.request_id for piece in bench.device.batches[1]] == ["stays"]
    bench.device.gates[1].set()
    await stays


async def test_late_chunks_end_before_a_batch_and_late_callers_are_refused(make_bench):
    bench = make_bench()
    bench.send("a", 1)
    await settle()
    late = bench.send("late", 2, deadline=Deadline(bench.clock() + 1000.0))
    await settle()
    bench.clock.advance(1001.0)
    bench.device.gates[0].set()
    await settle()
    assert late.exception().code == "deadline_exceeded"
    assert bench.device.sizes() == [1]
    with pytest.raises(ServiceError, match="deadline_exceeded"):
        await bench.send("too late", 1, deadline=Deadline(bench.clock()))


async def test_a_deadline_fires_while_the_device_hangs(make_bench):
    bench = make_bench()
    with pytest.raises(ServiceError, match="deadline_exceeded"):
        await asyncio.wait_for(bench.send("a", 1, deadline=Deadline(bench.clock() + 0.01)), 60)


async def test_a_guilty_request_fails_alone_and_leaves_the_queue(make_bench):
    bench = make_bench(max_batch=4)
    bench.device.guilty = {"guilty"}
    bench.send("first", 1)
    await settle()
    guilty, good = bench.send("guilty", 12), bench.send("good", 2)
    await settle()
    bench.device.is_open = True
    for gate in bench.device.gates:
        gate.set()
    assert len((await asyncio.wait_for(good, 60)).frames) == 2
    with pytest.raises(ServiceError, match="guilty"):
        await guilty
    await settle()
    assert bench.batcher.queue_depth == 0


async def test_a_broken_hand_over_fails_its_batch_and_the_batcher_lives_on(make_bench):
    bench = make_bench(is_open=True)
    bench.device.breaks = True
    with pytest.raises(ServiceError, match="internal"):
        await asyncio.wait_for(bench.send("a", 2), 60)
    bench.device.breaks = False
    assert len((await asyncio.wait_for(bench.send("b", 2), 60)).frames) == 2


async def test_encoding_that_lags_holds_the_device_back(make_bench):
    gate = asyncio.Event()

    async def slow_encode(group):
        await gate.wait()
        return await encode(group)

    bench = make_bench(max_batch=2, is_open=True, encode=slow_encode)
    task = bench.send("a", 30)
    await settle()
    assert 4 <= sum(bench.device.sizes()) <= 10
    gate.set()
    assert len((await asyncio.wait_for(task, 60)).frames) == 30


async def test_queue_bounds_and_retry_hint(make_bench):
    bench = make_bench(max_queued_samples=4)
    bench.send("a", 1)
    await settle()
    bench.send("b", 4)
    await settle()
    with pytest.raises(ServiceError, match="queue_full") as caught:
        await bench.send("c", 1)
    assert caught.value.retry_after_s >= 1.0


async def test_drain_rate_follows_the_device(make_bench):
    bench = make_bench(max_batch=4, is_open=True)
    assert bench.batcher.samples_per_s == pytest.approx(4 / 0.024)
    await bench.send("a", 4)
    assert bench.batcher.samples_per_s == pytest.approx(4 / 0.25)


async def test_closing_ends_everything_as_draining(make_bench):
    bench = make_bench(max_batch=2)
    tasks = [bench.send(name, 3) for name in "abc"]
    await settle()
    await bench.batcher.aclose()
    for task in tasks:
        with pytest.raises(ServiceError, match="draining"):
            await task
    with pytest.raises(ServiceError, match="draining"):
        await bench.send("d", 1)


@pytest.mark.parametrize("seed", range(12))
async def test_every_sample_is_answered_once_whatever_is_cancelled(make_bench, seed):
    """Random requests, cancellations and guilty ones: answers are whole, unmixed, and the queue ends empty."""
    rng = random.Random(seed)
    bench = make_bench(max_batch=rng.choice([1, 3, 8]), window_s=0.0)
    bench.device.guilty = {"r3"}
    sent = []
    for number in range(40):
        num = rng.randint(1, 12)
        sent.append((num, bench.send(f"r{number % 7}", num, chunk_no=number, is_interactive=rng.random() < 0.7)))
        if rng.random() < 0.3:
            rng.choice(sent)[1].cancel()
        for _ in range(rng.randint(0, 4)):
            await asyncio.sleep(0)
        if bench.device.gates and rng.random() < 0.6:
            bench.device.gates[-1].set()
    bench.device.is_open = True
    for gate in bench.device.gates:
        gate.set()
    answers = await asyncio.wait_for(asyncio.gather(*(task for _, task in sent), return_exceptions=True), 120)
    for (num, _), answer in zip(sent, answers, strict=True):
        if isinstance(answer, BaseException):
            assert isinstance(answer, asyncio.CancelledError) or answer.code == "internal"
        else:
            assert [frame.index for frame in answer.frames] == list(range(num))
    await settle()
    taken = Counter(
        (id(piece.pending), at)
        for batch in bench.device.batches
        for piece in batch
        for at in range(piece.start, piece.stop)
    )
    assert max(taken.values()) == 1, "a sample was sent to the device twice"
    assert bench.batcher.queue_depth == 0
    assert bench.batcher.is_idle()
    assert bench.value("queue_depth") == 0
    assert max(bench.device.sizes()) <= 8
