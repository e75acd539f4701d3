"""Calls side by side: when a batch joins those that run, and when it waits to be larger."""

from __future__ import annotations

from support.components.batcher_bench import settle

from service.batching.plan import BatchPlan

# A processor on which four samples are efficient: 5.8 ms each, where eight cost 5.5 ms each, two 7 and one 9 ms.
PROCESSOR = BatchPlan({1: 0.009, 2: 0.014, 4: 0.0232, 8: 0.044})


async def test_calls_run_side_by_side_and_one_more_full_batch_waits(make_bench):
    bench = make_bench(plan=PROCESSOR, parallel_calls=2)
    for name in "abcd":
        bench.send(name, 8)
        await settle()
    assert bench.device.sizes() == [8, 8, 8], "two run and one waits"
    assert not bench.batcher.is_idle()
    bench.device.gates[1].set()
    await settle()
    assert bench.device.sizes() == [8, 8, 8, 8]


async def test_beside_other_calls_an_efficient_batch_leaves_at_once_and_a_smaller_one_waits_for_two_windows(make_bench):
    bench = make_bench(plan=PROCESSOR, parallel_calls=2, window_s=5.0)
    bench.send("a", 1)
    await settle()
    bench.send("b", 3)
    await settle()
    assert bench.device.sizes() == [1]
    bench.clock.advance(9.0)
    bench.send("c", 1)
    await settle()
    assert bench.device.sizes() == [1, 4]
    bench.device.gates[0].set()
    await settle()
    bench.send("d", 1)
    await settle()
    assert bench.device.sizes() == [1, 4]
    bench.clock.advance(10.0)
    bench.send("e", 1)
    await settle()
    assert bench.device.sizes() == [1, 4, 2]


async def test_an_idle_device_takes_a_single_sample_at_once(make_bench):
    bench = make_bench(plan=PROCESSOR, parallel_calls=2)
    bench.send("a", 1)
    await settle()
    bench.send("b", 1)
    await settle()
    assert bench.device.sizes() == [1]
    assert not bench.batcher.is_idle()
    bench.device.gates[0].set()
    await settle()
    assert bench.device.sizes() == [1, 1]
