"""The memory of decoders: estimates, waiting, refusals, and what a child really takes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.components.pools import (
    code_of,
    decode_through,
    gone,
    known,
    limits_of,
    make_request,
    read_all,
    running_pool,
    soon,
    status_of,
    uploaded,
)
from support.inputs.clips import make_clip

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.decoders.pool import DecoderPool, MediaPolicy


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    async with running_pool() as running:
        yield running


def large_clip(**changes: object) -> bytes:
    """A clip of 16 reference pictures; decoding takes about 100 MiB."""
    return make_clip(width=1920, height=1080, num_frames=20, gop=20, codec_options={"refs": "16"}, **changes)


async def test_clips_that_do_not_fit_into_memory_together_wait(tmp_path: Path) -> None:
    data = large_clip()
    policy = MediaPolicy(max_total_bytes=150 << 20)
    async with running_pool(num_decoders=4, policy=policy) as pool, uploaded(data, tmp_path) as upload:
        async with pool.open(upload, make_request(), deadline=soon()) as first:
            assert known(first.clip)
            second = asyncio.create_task(decode_through(pool, upload))
            await asyncio.sleep(0.5)
            assert not second.done()
            with pytest.raises(ServiceError) as caught:
                async with pool.open(upload, make_request(), deadline=Deadline.after(0.2, clock=time.monotonic)):
                    pass
            assert caught.value.code == "deadline_exceeded"
            await read_all(first)
        assert (await second).clip.num_samples == 1
        await gone(pool)
        assert pool.held_bytes == 0


async def test_many_large_clips_end_without_a_deadlock(tmp_path: Path) -> None:
    data = large_clip()
    policy = MediaPolicy(max_total_bytes=150 << 20)
    async with running_pool(num_decoders=2, policy=policy) as pool, uploaded(data, tmp_path) as upload:
        decodings = [asyncio.create_task(decode_through(pool, upload)) for _ in range(6)]
        num_cancelled = 0
        for task in decodings[1::3]:
            await asyncio.sleep(0.1)
            num_cancelled += task.cancel()  # False for one that is done already
        ends = await asyncio.gather(*decodings, return_exceptions=True)
        assert [type(end).__name__ for end in ends].count("CancelledError") == num_cancelled
        assert [end.clip.num_samples for end in ends if not isinstance(end, BaseException)] == [1] * (6 - num_cancelled)
        await gone(pool)
        assert pool.held_bytes == 0


async def test_a_clip_that_can_never_fit_is_too_costly(tmp_path: Path) -> None:
    async with running_pool(policy=MediaPolicy(max_total_bytes=64 << 20)) as pool:
        async with uploaded(large_clip(), tmp_path) as upload:
            with pytest.raises(ServiceError) as caught:
                await decode_through(pool, upload)
        assert caught.value.code == "too_costly"
        assert "64 MiB" in caught.value.detail
        assert await code_of(pool, make_clip(), tmp_path) == "ok"


async def test_a_child_that_dies_gives_its_memory_back(pool: DecoderPool, tmp_path: Path) -> None:
    request = make_request(fps=None, side_px=224)
    async with uploaded(large_clip(), tmp_path) as upload, pool.open(upload, request, deadline=soon()) as reader:
        os.kill(reader.pid, signal.SIGKILL)
        await read_all(reader)
        assert pool.held_bytes > 64 << 20
    await gone(pool)
    assert pool.held_bytes == 0


async def test_a_large_picture_is_decoded_when_its_upload_is_complete(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(width=2560, height=1440, num_frames=20, codec_options={"refs": "16"}, movflags="faststart")
    async with uploaded(data[:-1000], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.3)
        assert pool.held_bytes == MediaPolicy().granted_bytes
        await upload.write(data[-1000:])
        upload.finish()
        assert (await decoding).clip.num_samples == 1


async def test_a_child_stays_within_its_estimate(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(
        width=2560,
        height=1440,
        num_frames=20,
        gop=20,
        pixel_format="yuv444p10le",
        codec_options={"refs": "16"},
    )
    request = make_request(fps=None, side_px=224)
    async with uploaded(data, tmp_path) as upload, pool.open(upload, request, deadline=soon()) as reader:
        peaks: list[str] = []
        async for _ in reader.blocks():
            # A child that has ended already says nothing of its memory.
            peaks += [value for name, value in status_of(reader.pid).items() if name == "VmHWM"]
        assert 200 << 10 < int(peaks[-1].split()[0]) < pool.held_bytes >> 10
        assert int(limits_of(reader.pid)["Max address space"][1]) < MediaPolicy().memory_bytes
