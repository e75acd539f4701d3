"""Grouping of decoded samples into chunks. A chunk leaves when full, after a delay, or when the predictor is idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np

from service.domain.chunk import FIRST_CHUNK_SAMPLES, MAX_CHUNK_SAMPLES, WINDOW_SAMPLES, SampleBlock
from service.domain.deadline import Clock


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """When a chunk leaves. The delay of 50 ms is too short to notice and as long as several device calls.

    Attributes:
        max_samples: most samples of a chunk.
        first_samples: most samples of the first chunk of a clip; the limit doubles with each next one.
        window_s: longest wait of a sample for more samples of its clip.
    """

    max_samples: int = MAX_CHUNK_SAMPLES
    first_samples: int = FIRST_CHUNK_SAMPLES
    window_s: float = 0.05


class Chunker:
    """Collects blocks of one clip. Holds at most a chunk and the block that filled it."""

    def __init__(self, policy: ChunkPolicy, *, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._blocks: list[SampleBlock] = []
        self._num_samples = 0
        self._limit = policy.first_samples
        self._since_s = 0.0

    def add(self, block: SampleBlock) -> None:
        """Add a decoded block."""
        if not self._num_samples:
            self._since_s = self._clock()
        self._blocks.append(block)
        self._num_samples += len(block)

    def wait_s(self) -> float | None:
        """Return the seconds that the collected samples may wait for more; None if there are none."""
        if not self._num_samples:
            return None
        return max(0.0, self._since_s + self._policy.window_s - self._clock())

    def take(self, *, is_idle: bool, is_end: bool = False) -> SampleBlock | None:
        """Return the samples of the next chunk if it is due, else None."""
        is_late = self._clock() >= self._since_s + self._policy.window_s
        if not self._num_samples or not (is_idle or is_end or is_late or self._num_samples >= self._limit):
            return None
        joined = join_blocks(self._blocks)
        head, rest = split_block(joined, self._limit)
        self._limit = min(2 * self._limit, self._policy.max_samples)
        self._blocks = [rest] if rest is not None else []
        self._num_samples -= len(head)
        self._since_s = self._clock()
        return head


async def chunks_of(
    blocks: AsyncIterator[SampleBlock], *, is_idle: Callable[[], bool], policy: ChunkPolicy, clock: Clock
) -> AsyncGenerator[SampleBlock, None]:
    """Yield the samples of each chunk in order. The reader must close the generator (`aclosing`)."""
    chunker = Chunker(policy, clock=clock)
    read = asyncio.ensure_future(_next_block(blocks))
    try:
        while True:
            await asyncio.wait({read}, timeout=chunker.wait_s())
            if read.done():
                block = read.result()
                if block is None:
                    break
                chunker.add(block)
                read = asyncio.ensure_future(_next_block(blocks))
            while (samples := chunker.take(is_idle=is_idle())) is not None:
                yield samples
        while (samples := chunker.take(is_idle=True, is_end=True)) is not None:
            yield samples
    finally:
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)


async def _next_block(blocks: AsyncIterator[SampleBlock]) -> SampleBlock | None:
    return await anext(blocks, None)


def join_blocks(blocks: list[SampleBlock]) -> SampleBlock:
    """Return one block of all samples; the audio spans are concatenated."""
    if len(blocks) == 1:
        return blocks[0]
    starts = np.cumsum([0] + [len(block.audio) for block in blocks[:-1]])
    return SampleBlock(
        frames=np.concatenate([block.frames for block in blocks]),
        audio=np.concatenate([block.audio for block in blocks]),
        offsets=np.concatenate([block.offsets + start for block, start in zip(blocks, starts, strict=True)]),
        sample_times_s=np.concatenate([block.sample_times_s for block in blocks]),
        timestamps_s=np.concatenate([block.timestamps_s for block in blocks]),
        indexes=np.concatenate([block.indexes for block in blocks]),
    )


def split_block(block: SampleBlock, num_samples: int) -> tuple[SampleBlock, SampleBlock | None]:
    """Return the first `num_samples` and the rest (None if there is none), each with the sound that it needs."""
    if len(block) <= num_samples:
        return block, None
    return _slice(block, 0, num_samples), _slice(block, num_samples, len(block))


def _slice(block: SampleBlock, start: int, end: int) -> SampleBlock:
    offsets = block.offsets[start:end]
    first, last = int(offsets.min()), int(offsets.max()) + WINDOW_SAMPLES
    return SampleBlock(
        frames=block.frames[start:end],
        audio=block.audio[first:last],
        offsets=offsets - first,
        sample_times_s=block.sample_times_s[start:end],
        timestamps_s=block.timestamps_s[start:end],
        indexes=block.indexes[start:end],
    )
