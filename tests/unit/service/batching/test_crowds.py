"""Batches while decoders keep all cores busy: they grow to the best size, for a while, but not for live streams."""

from __future__ import annotations

import pytest
from support.components.batcher_bench import settle

from service.batching.plan import BatchPlan

# A processor on which a sample costs least in batches of four: 5.8 ms, where one alone costs 9 ms.
PROCESSOR = BatchPlan({1: 0.009, 2: 0.014, 4: 0.0232, 8: 0.0464})
WAIT_S = 0.2


@pytest.fixture(name="crowd")
def _crowd() -> list[str]:
    """The crowd, which a test may disperse."""
    return ["decoder"]


@pytest.fixture(name="bench")
async def _bench(make_bench, crowd):
    return make_bench(plan=PROCESSOR, parallel_calls=2, is_crowded=lambda: bool(crowd), crowd_wait_s=WAIT_S)


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
    bench.clock.advance(WAIT_S - 0.001)
    bench.send("b")
    await settle()
    assert bench.device.sizes() == []
    bench.clock.advance(0.001)
    bench.send("c")
    await settle()
    assert sum(bench.device.sizes()) == 3


async def test_the_wait_ends_with_the_crowd(bench, crowd):
    with bench.batcher.expect("other"):
        bench.send("a")
        await settle()
        assert bench.device.sizes() == []
        crowd.clear()
    await settle()
    assert bench.device.sizes() == [1]


async def test_a_live_frame_takes_what_waits_along_at_once(bench):
    bench.send("upload")
    await settle()
    bench.send("stream", is_live=True)
    await settle()
    assert bench.device.sizes() == [2]


async def test_chunks_may_fill_up_in_a_crowd(bench, crowd):
    assert not bench.batcher.is_idle()
    crowd.clear()
    assert bench.batcher.is_idle()
