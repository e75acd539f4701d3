"""The picture decoders of live streams, with real children."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest
from support.components.pools import gone, running_pool

from service.domain.errors import ServiceError
from service.media.decoders.pool import DecoderPool
from service.media.sandbox.warmup import make_warmup_jpeg


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    async with running_pool() as running:
        yield running


async def test_pictures_of_live_streams(pool: DecoderPool) -> None:
    with pool.open_stills() as stills:
        rgb, size = await stills.decode_jpeg(make_warmup_jpeg(), height=24, width=40)
        assert (rgb.shape, size) == ((24, 40, 3), (32, 32))
        frame = np.zeros((50, 30, 3), np.uint8)
        frame[25:] = 255
        small = await stills.resize_rgb(frame, height=10, width=10)
        assert small[:4].max() == 0
        assert small[6:].min() == 255
        with pytest.raises(ServiceError) as caught:
            await stills.decode_jpeg(b"no jpeg", height=24, width=40)
        assert caught.value.code == "broken"
        with pytest.raises(ServiceError) as caught:
            await stills.resize_rgb(np.zeros((4000, 4000, 3), np.uint8), height=10, width=10)
        assert caught.value.code == "picture_too_large"
    await gone(pool)


async def test_a_killed_picture_decoder_is_replaced(pool: DecoderPool) -> None:
    with pool.open_stills() as stills:
        await stills.decode_jpeg(make_warmup_jpeg(), height=24, width=40)
        os.kill(stills.pid, signal.SIGKILL)
        await gone(pool)
        rgb, _ = await stills.decode_jpeg(make_warmup_jpeg(), height=24, width=40)
    assert rgb.shape == (24, 40, 3)


async def test_each_live_stream_has_a_picture_decoder_of_its_own(pool: DecoderPool) -> None:
    with pool.open_stills() as one, pool.open_stills() as other:
        assert pool.num_children == 0  # until a picture comes
        for stills in (one, other, one):
            await stills.decode_jpeg(make_warmup_jpeg(), height=8, width=8)
        assert one.pid != other.pid
        assert pool.num_children == 2
        os.kill(one.pid, signal.SIGKILL)
        await other.decode_jpeg(make_warmup_jpeg(), height=8, width=8)
    await gone(pool)


async def test_picture_decoders_are_bounded_by_the_streams() -> None:
    async with running_pool(max_live_streams=2) as pool:
        with pool.open_stills(), pool.open_stills():
            with pytest.raises(ServiceError) as caught, pool.open_stills():
                pass
            assert caught.value.code == "too_many_requests"
        with pool.open_stills() as stills:
            await stills.decode_jpeg(make_warmup_jpeg(), height=8, width=8)


async def test_pictures_of_a_stream_that_come_together_are_decoded_in_turn(pool: DecoderPool) -> None:
    with pool.open_stills() as stills:
        answers = await asyncio.gather(*(stills.decode_jpeg(make_warmup_jpeg(), height=8, width=8) for _ in range(50)))
        assert all(rgb.shape == (8, 8, 3) for rgb, _ in answers)
        assert pool.num_children == 1


async def test_a_picture_decoder_is_replaced_before_it_grows_old(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.media.decoders.stills._MAX_PICTURES", 3)
    pids = []
    with pool.open_stills() as stills:
        for _ in range(7):
            await stills.decode_jpeg(make_warmup_jpeg(), height=8, width=8)
            pids.append(stills.pid)
    assert [len(set(pids[at : at + 3])) for at in (0, 3)] == [1, 1]
    assert len(set(pids)) == 3
