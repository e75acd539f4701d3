"""Chunks: when they leave, and that nothing is lost, doubled or given the wrong sound on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.components.chunks import FakeClock, make_block

from service.core.chunker import Chunker, ChunkPolicy, chunks_of, join_blocks, split_block
from service.domain.chunk import SampleBlock

POLICY = ChunkPolicy(max_samples=8, first_samples=2, window_s=0.05)


def blocks_of(sizes: list[int]) -> list[SampleBlock]:
    blocks = []
    start = 0
    for number, size in enumerate(sizes):
        block = make_block(size, seed=number, size_px=16)
        block.indexes[:] += start
        start += size
        blocks.append(block)
    return blocks


def assert_same(left: SampleBlock, right: SampleBlock) -> None:
    for name in ("frames", "sample_times_s", "timestamps_s", "indexes"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    np.testing.assert_array_equal(left.windows(), right.windows())


def test_an_idle_predictor_gets_what_there_is():
    chunker = Chunker(POLICY, clock=FakeClock())
    assert chunker.take(is_idle=True) is None
    chunker.add(make_block(1))
    samples = chunker.take(is_idle=True)
    assert samples is not None
    assert len(samples) == 1


def test_a_busy_predictor_gets_chunks_that_double_up_to_the_largest():
    chunker = Chunker(POLICY, clock=FakeClock())
    chunker.add(make_block(1))
    assert chunker.take(is_idle=False) is None
    sizes = []
    for size in (8, 8, 8, 4):
        chunker.add(make_block(size))
        while (samples := chunker.take(is_idle=False)) is not None:
            sizes.append(len(samples))
    assert sizes == [2, 4, 8, 8]
    assert chunker.take(is_idle=True) is not None


def test_a_chunk_leaves_when_its_first_sample_is_50_ms_old():
    clock = FakeClock()
    chunker = Chunker(POLICY, clock=clock)
    assert chunker.wait_s() is None
    chunker.add(make_block(1))
    clock.advance(0.04)
    assert chunker.take(is_idle=False) is None
    assert abs((chunker.wait_s() or 0) - 0.01) < 1e-9
    clock.advance(0.01)
    assert chunker.wait_s() == 0
    assert chunker.take(is_idle=False) is not None


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6), st.integers(1, 12))
def test_joining_and_splitting_keep_every_sample_and_its_sound(sizes, at):
    joined = join_blocks(blocks_of(sizes))
    head, rest = split_block(joined, at)
    assert_same(join_blocks([head] if rest is None else [head, rest]), joined)
    assert len(head) == min(at, sum(sizes))


@given(st.lists(st.integers(1, 8), min_size=1, max_size=8), st.lists(st.booleans(), min_size=1, max_size=5))
async def test_chunks_hold_all_samples_in_order_within_their_bounds(sizes, idle_answers):
    blocks = blocks_of(sizes)
    answers = iter(idle_answers * 1000)

    async def read() -> AsyncIterator[SampleBlock]:
        for block in blocks:
            yield block

    chunks = [
        samples async for samples in chunks_of(read(), is_idle=lambda: next(answers), policy=POLICY, clock=FakeClock())
    ]
    assert_same(join_blocks(chunks), join_blocks(blocks))
    assert len(chunks[0]) <= POLICY.first_samples
    assert all(len(samples) <= POLICY.max_samples for samples in chunks)
