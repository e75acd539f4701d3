"""Throughput and fairness of the real batcher on virtual time, with clients that ask again once they have an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from support.components.chunks import make_chunk
from support.virtual_time import run_virtual, virtual_clock

from service.batching.device import BatchOutcome
from service.batching.encode_groups import EncodeInput
from service.batching.micro_batcher import EncodeOutput, MicroBatcher
from service.batching.plan import BatchPlan
from service.batching.policy import BatchPolicy
from service.batching.sample_queue import SampleSlice
from service.domain.result import FrameMasks
from service.telemetry.metrics import Metrics

MAX_BATCH = 8
# The emulated accelerator of the bench: 20 ms a call and 1 ms an item, so one call for all saves 20 ms.
ACCELERATOR = BatchPlan({size: 0.020 + 0.001 * size for size in range(1, MAX_BATCH + 1)})
# A processor whose cost grows with the batch: a larger batch saves only the 0.5 ms of a hand-over.
PROCESSOR = BatchPlan({size: 0.007 * size for size in (1, 2, 4, 8)})
FRONT_S, ENCODE_S = 0.0004, 0.0005
MEASURED_S = 10.0


@dataclass
class Site:
    """A batcher over a device that sleeps, behind a front that handles one request at a time."""

    plan: BatchPlan
    parallel_calls: int = 1
    sizes: list[int] = field(default_factory=list)
    latencies_s: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._device, self._front = asyncio.Semaphore(self.parallel_calls), asyncio.Lock()
        self.batcher = MicroBatcher(
            BatchPolicy(max_batch=MAX_BATCH),
            run_batch=self._run,
            encode=self._encode,
            plan=lambda: self.plan,
            metrics=Metrics(),
            clock=virtual_clock,
        )
        self.batcher.start_batching()
        self.batcher.run_parallel(self.parallel_calls)

    async def _run(self, slices: Sequence[SampleSlice]) -> BatchOutcome:
        num = sum(map(len, slices))
        async with self._device:
            await asyncio.sleep(self.plan.cost_s(num))
        self.sizes.append(num)
        return BatchOutcome([(piece, np.zeros((len(piece), 1, 1, 1), np.float32)) for piece in slices], 0.0)

    async def _encode(self, group: EncodeInput) -> EncodeOutput:
        await asyncio.sleep(ENCODE_S)
        return [(tuple(FrameMasks(0.0, 0.0, 0, ()) for _ in range(len(piece))), 0.0) for piece, _ in group]

    async def ask(self, client: str, number: int) -> None:
        began_s = virtual_clock()
        async with self._front:
            await asyncio.sleep(FRONT_S)
        name = f"{client}-{number}"
        with self.batcher.expect(name):
            await self.batcher.segment(make_chunk(name, 1, size_px=8, output_size=(8, 8)))
        self.latencies_s.setdefault(client, []).append(virtual_clock() - began_s)

    async def ask_forever(self, client: str) -> None:
        number = 0
        while True:
            await self.ask(client, number)
            number += 1


async def closed_loop(num_clients: int, plan: BatchPlan, *, parallel_calls: int = 1) -> Site:
    site = Site(plan, parallel_calls)
    tasks = [asyncio.create_task(site.ask_forever(f"c{number}")) for number in range(num_clients)]
    await asyncio.sleep(MEASURED_S)
    await _end(site, tasks)
    return site


async def _end(site: Site, tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    await site.batcher.aclose()
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


def _ratio_to_limit(site: Site) -> float:
    """Items a second over those of a device that runs full batches without a pause."""
    limit = MAX_BATCH / site.plan.cost_s(MAX_BATCH)
    return sum(map(len, site.latencies_s.values())) / MEASURED_S / limit


@pytest.mark.parametrize(("num_clients", "least"), [(8, 0.85), (12, 0.85), (32, 0.95)])
def test_clients_that_come_back_share_full_batches(num_clients: int, least: float) -> None:
    site = run_virtual(closed_loop(num_clients, ACCELERATOR))
    assert _ratio_to_limit(site) >= least


@pytest.mark.parametrize("num_clients", [1, 3, 8, 9, 12, 32])
def test_no_client_is_served_less_than_another(num_clients: int) -> None:
    site = run_virtual(closed_loop(num_clients, ACCELERATOR))
    counts = [len(latencies_s) for latencies_s in site.latencies_s.values()]
    assert len(counts) == num_clients
    assert min(counts) >= 0.9 * max(counts)


def test_a_lone_client_never_waits() -> None:
    site = run_virtual(closed_loop(1, ACCELERATOR))
    worst_s = max(site.latencies_s["c0"])
    assert worst_s == pytest.approx(FRONT_S + ACCELERATOR.cost_s(1) + ENCODE_S, abs=1e-4)


def test_a_device_that_saves_nothing_by_batching_hardly_waits() -> None:
    site = run_virtual(closed_loop(2, PROCESSOR))
    assert _ratio_to_limit(site) >= 0.85


@pytest.mark.parametrize("num_clients", [16, 20, 32])
def test_calls_side_by_side_double_the_rate(num_clients: int) -> None:
    one, two = (run_virtual(closed_loop(num_clients, PROCESSOR, parallel_calls=calls)) for calls in (1, 2))
    assert _ratio_to_limit(two) >= 1.85 * _ratio_to_limit(one)
    if num_clients > 2 * MAX_BATCH:  # else nobody waits, and who came back in a smaller batch is answered sooner
        counts = [len(latencies_s) for latencies_s in two.latencies_s.values()]
        assert min(counts) >= 0.9 * max(counts)


def test_clients_that_do_not_come_back_cost_nothing_in_the_long_run() -> None:
    """Pairs of requests with long pauses between them: waiting for a return is unlearned."""

    async def pairs() -> list[float]:
        site, rng = Site(ACCELERATOR), random.Random(0)
        for number in range(200):
            await asyncio.gather(site.ask("a", number), site.ask("b", number))
            await asyncio.sleep(0.05 + rng.random() * 0.05)
            await site.ask("alone", number)
            await asyncio.sleep(0.05)
        await _end(site, [])
        return site.latencies_s["alone"]

    latencies_s = run_virtual(pairs())
    assert max(latencies_s) == pytest.approx(FRONT_S + ACCELERATOR.cost_s(1) + ENCODE_S, abs=1e-4)
