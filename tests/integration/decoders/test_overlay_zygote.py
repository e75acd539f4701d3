"""Overlays have a zygote of their own, which starts with the first of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from support.components.pools import HANG_S, code_of, gone, running_pool, soon, uploaded
from support.inputs.clips import make_clip

from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, Mask, Rle
from service.media.decoders import zygote_process
from service.media.decoders.pool import DecoderPool
from service.media.decoders.zygote_link import ZygoteLink
from service.media.upload import Upload

MASK = Mask("dog", 1.0, 1024, (0, 0, 32, 32), Rle((32, 32), "0PP1"))
FRAMES = [FrameMasks(0.0, 0.0, 0, (MASK,))]


async def draw(pool: DecoderPool, upload: Upload) -> bytes:
    """The overlay of an upload."""
    return b"".join([piece async for piece in pool.draw(upload, FRAMES, audio_track=None, deadline=soon())])


def zygotes() -> dict[str, psutil.Process]:
    """This process's zygotes by the module that they run."""
    found = psutil.Process().children()
    return {name: each for each in found for name in ("decoder", "overlay") if f"{name}_zygote" in each.cmdline()[2]}


async def test_the_first_overlay_starts_it_and_later_ones_share_it(tmp_path: Path) -> None:
    async with running_pool() as pool, uploaded(make_clip(), tmp_path) as upload:
        assert set(zygotes()) == {"decoder"}
        first, second = await asyncio.gather(draw(pool, upload), draw(pool, upload))
        assert first == second
        assert b"moof" in first
        overlay = zygotes()["overlay"]
        await draw(pool, upload)
        assert zygotes()["overlay"] == overlay
        await gone(pool)
    assert not zygotes()


async def test_only_it_holds_opencv(tmp_path: Path) -> None:
    async with running_pool() as pool, uploaded(make_clip(), tmp_path) as upload:
        await draw(pool, upload)
        mapped = {name: {Path(each.path).name for each in zygote.memory_maps()} for name, zygote in zygotes().items()}
        assert "cv2.abi3.so" in mapped["overlay"]
        assert "cv2.abi3.so" not in mapped["decoder"]


async def test_children_of_the_two_never_share_a_user(tmp_path: Path) -> None:
    async with running_pool() as pool, uploaded(make_clip(), tmp_path) as upload:
        if not pool.features()["own_user"]:
            pytest.skip("the service does not run as root")
        await draw(pool, upload)
        await gone(pool)
        uids = {name: {child.uids().real for child in each.children()} for name, each in zygotes().items()}
        own = psutil.Process().uids().real
        assert uids["overlay"] - {own}
        assert uids["decoder"] - {own}
        assert not (uids["overlay"] & uids["decoder"]) - {own}  # that of the holders of the namespaces


async def test_its_death_ends_an_overlay_and_no_decoding(tmp_path: Path) -> None:
    clip = make_clip(num_frames=1000, width=320, height=240, gop=25)
    async with running_pool() as pool, uploaded(clip, tmp_path) as upload:
        pieces = pool.draw(upload, FRAMES, audio_track=None, deadline=soon())
        assert await anext(pieces)
        zygotes()["overlay"].kill()
        with pytest.raises(ServiceError) as caught:
            async for _ in pieces:
                pass
        assert caught.value.code == "decoder_gone"
        assert pool.is_healthy()
        assert await code_of(pool, make_clip(), tmp_path) == "ok"
    async with running_pool() as pool, uploaded(make_clip(), tmp_path) as upload:
        await draw(pool, upload)
        zygotes()["overlay"].kill()
        assert await draw(pool, upload)  # another one is started


async def test_one_that_does_not_become_ready_holds_up_no_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_pool(num_decoders=1) as pool, uploaded(make_clip(), tmp_path) as upload:
        monkeypatch.setattr(zygote_process, "_CODE", "import time; time.sleep(600)  # {module}")
        drawing = asyncio.create_task(draw(pool, upload))
        async with asyncio.timeout(HANG_S):
            while len(psutil.Process().children()) < 2:
                await asyncio.sleep(0.01)
        assert await code_of(pool, make_clip(), tmp_path) == "ok"
        assert not drawing.done()
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)


async def test_one_that_fails_in_its_warm_up_is_started_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(zygote_process, "_CODE", "raise SystemExit(1)  # {module}")
    link = ZygoteLink("overlay_zygote")
    starting = asyncio.create_task(link.start())
    await asyncio.sleep(3.0)
    assert 1 <= caplog.text.count("zygote died") <= 5  # after 0, 0.2, 0.6, 1.4 and 3.0 s; with equal pauses 15
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await link.aclose()
    with pytest.raises(ServiceError):
        await link.start()  # nobody would end it


async def test_its_walls_are_those_of_the_decoders() -> None:
    decoder, overlay = ZygoteLink("decoder_zygote"), ZygoteLink("overlay_zygote")
    try:
        await asyncio.gather(decoder.start(), overlay.start())
        assert overlay.features == decoder.features
        assert overlay.features["num_threads"] == 1
    finally:
        await decoder.aclose()
        await overlay.aclose()
