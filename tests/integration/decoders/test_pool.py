"""The decoder pool with real children: samples, order and growing uploads."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from support.components.decoding import decode_here, make_job
from support.components.pools import (
    HANG_S,
    decode_through,
    gone,
    known,
    make_request,
    read_all,
    running_pool,
    soon,
    uploaded,
)
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.hostile import find
from support.inputs.odd_clips import odd_clip

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.core_use import CoreUse
from service.media.decoders import slot as slot_module
from service.media.decoders.pool import DecoderPool


@pytest.mark.parametrize("name", ["hlg", "pq"])
async def test_a_child_converts_hdr_within_its_limits(pool: DecoderPool, tmp_path: Path, name: str) -> None:
    data = odd_clip(name)
    here = decode_here(data, make_job(fps=5))
    async with uploaded(data, tmp_path) as upload, pool.open(upload, make_request(fps=5), deadline=soon()) as reader:
        through = await read_all(reader)
    np.testing.assert_array_equal(here.frames, through.frames)


async def test_a_child_gives_what_the_same_process_gives(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=75)
    here = decode_here(data, make_job(fps=5))
    async with uploaded(data, tmp_path) as upload, pool.open(upload, make_request(fps=5), deadline=soon()) as reader:
        assert known(reader.clip)
        through = await read_all(reader)
    np.testing.assert_array_equal(here.frames, through.frames)
    np.testing.assert_array_equal(here.windows, through.windows)
    np.testing.assert_array_equal(here.sample_times_s, through.sample_times_s)
    assert here.clip == through.clip


async def test_decoders_are_handed_out_in_order(tmp_path: Path) -> None:
    data = make_clip(num_frames=10)
    order: list[int] = []
    async with running_pool(num_decoders=1) as pool, uploaded(data, tmp_path) as upload:

        async def one(number: int) -> None:
            async with pool.open(upload, make_request(), deadline=soon()) as reader:
                order.append(number)
                await read_all(reader)

        await asyncio.gather(*(one(number) for number in range(6)))
        assert order == list(range(6))


async def test_the_cores_are_free_once_the_child_has_ended(tmp_path: Path) -> None:
    cores, room = CoreUse(1), asyncio.Event()
    cores.on_room(room.set)
    async with running_pool(cores=cores) as pool, uploaded(make_clip(num_frames=10), tmp_path) as upload:
        async with pool.open(upload, make_request(), deadline=soon()) as reader:
            await read_all(reader)
            assert cores.is_full
            assert not room.is_set()
        async with asyncio.timeout(HANG_S):
            await room.wait()
        assert not cores.is_full


async def test_a_full_pool_keeps_to_the_deadline(tmp_path: Path) -> None:
    data = make_clip(num_frames=10)
    async with running_pool(num_decoders=1) as pool, uploaded(data, tmp_path) as upload:
        async with pool.open(upload, make_request(), deadline=soon()):
            with pytest.raises(ServiceError) as caught:
                async with pool.open(upload, make_request(), deadline=Deadline.after(0.05, clock=time.monotonic)):
                    pass
        assert caught.value.code == "deadline_exceeded"
        assert len((await decode_through(pool, upload)).frames) == 1


async def test_an_upload_that_grows_goes_on_beside_one_that_began_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With head starts that last, the second one begins only while the first one waits for its upload."""
    monkeypatch.setattr(slot_module, "_SHORT_BYTES", 0)
    monkeypatch.setattr(slot_module, "_HEAD_START_S", 3600.0)
    data = make_clip(num_frames=100, gop=10, movflags="faststart")
    cut = len(data) * 6 // 10
    async with (
        running_pool(num_decoders=4, cores=CoreUse(num_cores=1)) as pool,
        uploaded(data[:cut], tmp_path, is_complete=False) as growing,
        uploaded(data, tmp_path) as complete,
        pool.open(growing, make_request(fps=5), deadline=soon()) as first,
    ):
        reading = asyncio.create_task(read_all(first))
        async with pool.open(complete, make_request(fps=5), deadline=soon()):
            assert not reading.done()
            await growing.write(data[cut:])
            growing.finish()
            async with asyncio.timeout(HANG_S):
                await reading
    assert first.clip.num_samples == 20


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
async def test_samples_come_before_the_upload_ends(pool: DecoderPool, tmp_path: Path, movflags: str) -> None:
    data = make_clip(num_frames=100, gop=10, movflags=movflags)
    cut = len(data) * 6 // 10
    async with (
        uploaded(data[:cut], tmp_path, is_complete=False) as upload,
        pool.open(upload, make_request(fps=5), deadline=soon()) as reader,
    ):
        blocks = reader.blocks()
        first = await anext(blocks)
        assert not upload.is_complete
        await upload.write(data[cut:])
        upload.finish()
        num = len(first) + sum([len(block) async for block in blocks])
        assert known(reader.clip)
    assert num == len(decode_here(data, make_job(fps=5)).frames)


async def test_a_slow_upload_holds_no_decoder(tmp_path: Path) -> None:
    data = make_clip(num_frames=100, gop=10, movflags="faststart")
    async with (
        running_pool(num_decoders=1) as pool,
        uploaded(data[:2000], tmp_path, is_complete=False) as slow,
        uploaded(data, tmp_path) as quick,
    ):
        waiting = [asyncio.create_task(decode_through(pool, slow)) for _ in range(3)]
        for _ in range(3):
            assert (await decode_through(pool, quick)).clip.num_samples == 4
        assert not any(task.done() for task in waiting)
        await slow.write(data[2000:])
        slow.finish()
        assert [decoded.clip.num_samples for decoded in await asyncio.gather(*waiting)] == [4, 4, 4]


async def test_an_index_at_the_end_waits_for_the_end(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=50)
    async with uploaded(data[:-100], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.1)
        assert not decoding.done()
        await upload.write(data[-100:])
        upload.finish()
        assert (await decoding).clip.num_samples == 2


async def test_a_growing_upload_that_fails_fails_its_decoding(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=100, movflags="faststart")
    async with uploaded(data[:-5000], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.05)
        upload.abort(ServiceError("slow_upload", "too slow"))
        with pytest.raises(ServiceError, match="too slow"):
            await decoding
    await gone(pool)


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
async def test_a_growing_upload_that_ends_short_is_truncated(pool: DecoderPool, tmp_path: Path, movflags: str) -> None:
    data = make_clip(num_frames=100, gop=10, movflags=movflags)
    async with uploaded(data[: find(data, "mdat") + 3000], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.05)
        upload.finish()
        with pytest.raises(ServiceError) as caught:
            await decoding
        assert caught.value.code == "truncated"


async def test_variable_rate_through_a_child(pool: DecoderPool, tmp_path: Path) -> None:
    spec = ClipSpec(frame_ticks=[0, 100, 5000, 5100, 20_000], num_frames=5)
    async with uploaded(make_clip(spec), tmp_path) as upload:
        decoded = await decode_through(pool, upload, make_request(fps=None))
    assert decoded.timestamps_s.tolist() == [0, 0.007812, 0.390625, 0.398438, 1.5625]
