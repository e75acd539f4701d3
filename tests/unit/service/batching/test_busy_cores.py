"""Batches while decoders keep all cores busy: they wait for the best size, for a while, and not with live frames."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.components.batcher_bench import LONG_S, settle

from service.batching.micro_batcher import BUSY_WAIT_S, LIVE_CALM_S
from service.batching.plan import BatchPlan
from service.domain.deadline import Deadline

# A processor on which a sample costs least in batches of four: 5.8 ms, where one alone costs 9 ms.
PROCESSOR = BatchPlan({1: 0.009, 2: 0.014, 4: 0.0232, 8: 0.0464})


@dataclass
class Cores:
    """Cores that the test keeps busy."""

    are_busy: bool = True


@pytest.fixture(name="cores")
def _cores() -> Cores:
    return Cores()


@pytest.fixture(name="bench")
async def _bench(make_bench, cores):
    return make_bench(plan=PROCESSOR, parallel_calls=2, are_cores_busy=lambda: cores.are_busy)


async def test_a_batch_leaves_at_the_best_size(bench):
    for num, name in enumerate("abc", start=1):
        bench.send(name)
        await settle()
        assert bench.device.sizes() == [], f"{num} of four"
    bench.send("d")
    await settle()
    assert bench.device.sizes() == [4]


async def test_a_smaller_batch_leaves_when_the_wait_is_over(bench):
    bench.send("a")
    await settle()
    bench.clock.advance(BUSY_WAIT_S - 0.001)
    bench.send("b")
    await settle()
    assert bench.device.sizes() == []
    bench.clock.advance(0.001)
    bench.batcher.look_again()
    await settle()
    assert bench.device.sizes() == [2]


async def test_the_wait_ends_when_cores_are_free(bench, cores):
    with bench.batcher.expect("a"):
        bench.send("a")
    await settle()
    assert bench.device.sizes() == []
    cores.are_busy = False
    bench.batcher.look_again()
    await settle()
    assert bench.device.sizes() == [1]


async def test_beside_a_live_stream_nothing_waits(bench):
    bench.send("upload")
    await settle()
    assert bench.device.sizes() == []
    bench.send("stream", is_live=True)
    await settle()
    assert bench.device.sizes() == [2], "the frame ends a wait"
    bench.device.gates[0].set()
    await settle()
    bench.clock.advance(LIVE_CALM_S)
    assert bench.batcher.is_idle()
    bench.send("upload")
    await settle()
    assert bench.device.sizes() == [2, 1], "its next frame may come soon"
    bench.device.gates[1].set()
    await settle()
    bench.clock.advance(0.001)
    bench.send("upload")
    await settle()
    assert bench.device.sizes() == [2, 1]


async def test_a_chunk_keeps_time_for_its_call(bench):
    bench.send("patient", deadline=Deadline(bench.clock() + LONG_S))
    await settle()
    bench.send("hurried", deadline=Deadline(bench.clock() + 1.5 * BUSY_WAIT_S))
    await settle()
    assert bench.device.sizes() == []
    bench.clock.advance(0.5 * BUSY_WAIT_S + 0.001)
    bench.batcher.look_again()
    await settle()
    assert bench.device.sizes() == [2]


async def test_without_a_window_nothing_waits(make_bench):
    bench = make_bench(plan=PROCESSOR, parallel_calls=2, are_cores_busy=lambda: True, window_s=0.0)
    bench.send("a")
    await settle()
    assert bench.device.sizes() == [1]


async def test_chunks_may_fill_up_while_the_cores_are_busy(bench, cores):
    assert not bench.batcher.is_idle()
    cores.are_busy = False
    assert bench.batcher.is_idle()
