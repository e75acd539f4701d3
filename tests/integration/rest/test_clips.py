"""POST /segment with real files, real decoders and the fake predictor."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from pycocotools import mask as coco
from support.inputs.clips import make_clip
from support.servers.front import RunningFront, running_front

from service.predictors.fake import FakePredictor, FakeTiming

RAW = {"Content-Type": "video/mp4"}
EXAMPLE = Path(__file__).parents[2] / "assets" / "synthetic.mp4"


def client_of(running: RunningFront) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.http_url, timeout=120)


def counted(running: RunningFront, name: str, **labels: str) -> float:
    return running.front.core.metrics.registry.get_sample_value(f"avesformer_{name}", labels) or 0.0


def small_clip(seed: int, **changes: object) -> bytes:
    return make_clip(width=64 + 16 * (seed % 4), height=48 + 16 * (seed % 3), num_frames=25 + seed % 7, **changes)


async def test_masks_decode_at_the_size_of_the_clip():
    async with running_front() as running, client_of(running) as client:
        answer = (await client.post("/segment?fps=2", content=EXAMPLE.read_bytes(), headers=RAW)).json()
    clip = answer["clip"]
    assert [frame["sample_time_s"] for frame in answer["frames"]] == [(i + 15 / 16) / 2 for i in range(10)]
    for frame in answer["frames"]:
        for mask in frame["masks"]:
            pixels = coco.decode(mask["segmentation"])
            assert pixels.shape == (clip["height"], clip["width"])
            assert pixels.sum() == mask["area"]
            rows, columns = np.nonzero(pixels)
            x, y, width, height = mask["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


async def test_files_that_cannot_be_used_have_their_documented_answer():
    good = make_clip()
    files = {
        "no sound": (make_clip(sound=None), 422, "no_audio"),
        "cut": (good[:3000], 422, "truncated"),
        "cut at the end": (make_clip(movflags="faststart")[:-2000], 422, "truncated"),
        "empty": (b"", 400, "empty_file"),
        "playlist": (b"#EXTM3U\nhttp://127.0.0.1/x\n", 415, "not_mp4"),
        "noise": (os.urandom(5000), 415, "not_mp4"),
    }
    async with running_front() as running, client_of(running) as client:
        for name, (content, status, code) in files.items():
            response = await client.post("/segment", content=content, headers=RAW)
            assert (response.status_code, response.json()["code"]) == (status, code), (name, response.text)
        again = await client.post("/segment", content=good, headers=RAW)
        assert again.status_code == 200


LIMITS = [
    ({"max_clip_s": 1.0}, "", 422, "too_long", "1"),
    ({"max_pixels": 1024}, "", 422, "picture_too_large", "1024"),
    ({"max_samples": 3}, "fps=10", 422, "too_many_frames", "3"),
    ({"max_samples": 3}, "fps=native", 422, "too_many_frames", "3"),
    ({"max_upload_bytes": 2000}, "", 413, "upload_too_large", "2000"),
    ({"max_answer_bytes": 1024}, "fps=native", 422, "answer_too_large", "1024"),
    ({"spool_bytes": 1024**2}, "", 507, "storage_full", ""),
]


@pytest.mark.parametrize(("settings", "query", "status", "code", "limit"), LIMITS, ids=[case[3] for case in LIMITS])
async def test_every_limit_is_enforced_and_named(settings, query, status, code, limit):
    clip = make_clip(num_frames=75)
    if code == "storage_full":
        clip += b"\0\0\0\0free" * 200_000
    async with running_front(**settings) as running, client_of(running) as client:
        response = await client.post(f"/segment?{query}", content=clip, headers=RAW)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert limit in response.json()["detail"]


async def test_32_one_sample_requests_at_once_share_batches_and_answer_as_if_alone():
    clips = [small_clip(seed) for seed in range(32)]

    def slow() -> FakePredictor:
        return FakePredictor(timing=FakeTiming(batch_s=0.2))

    async with (
        running_front(make_predictor=slow, max_batch=16, decode_processes=8) as running,
        client_of(running) as client,
    ):

        async def frames(clip: bytes) -> list[dict[str, object]]:
            response = await client.post("/segment", content=clip, headers={**RAW, "Cache-Control": "no-cache"})
            assert response.status_code == 200, response.text
            found: list[dict[str, object]] = response.json()["frames"]
            return found

        alone = [await frames(clip) for clip in clips[:8]]
        before = [counted(running, f"batch_requests_{part}") for part in ("sum", "count")]
        together = await asyncio.gather(*(frames(clip) for clip in clips))
        after = [counted(running, f"batch_requests_{part}") for part in ("sum", "count")]
    assert [len(answer) for answer in together] == [1] * 32
    assert together[:8] == alone
    assert (after[0] - before[0]) / (after[1] - before[1]) > 1.5


async def test_a_large_upload_is_streamed_to_disk_and_not_held():
    size = 200 * 1024**2
    process = psutil.Process()
    async with running_front() as running, client_of(running) as client:
        clip = make_clip()
        padding = size.to_bytes(4, "big") + b"free"

        async def body():
            yield clip + padding
            piece = b"\0" * 1024**2
            for _ in range((size - 8) // len(piece)):
                yield piece
            yield b"\0" * ((size - 8) % len(piece))

        await client.post("/segment", content=clip, headers=RAW)
        before = process.memory_info().rss
        posting = asyncio.create_task(client.post("/segment", content=body(), headers=RAW))
        peak = before
        while not posting.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.005)
        response = await posting
        assert response.status_code == 200, response.text
    assert peak - before < 60 * 1024**2
