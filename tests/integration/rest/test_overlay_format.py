"""`format=overlay`: the clip with its masks drawn on it by a jailed process, over real HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import pytest_asyncio
from support.inputs.clips import make_clip
from support.servers.front import RunningFront, running_front

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 120.0
CLIP = Path(__file__).parents[2] / "assets" / "synthetic.mp4"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningFront]:
    async with running_front(state_dir=tmp_path_factory.mktemp("state")) as running:
        yield running


async def ask(front: RunningFront, clip: bytes, *, path: str = "/v1/segment", **query: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client:
        headers = {"Content-Type": "video/mp4", **query.pop("headers", {})}
        return await client.post(path, params=query, content=clip, headers=headers)


def read(data: bytes) -> tuple[list[np.ndarray], list[float], list[bytes]]:
    """Pictures, their times, and the packets of the sound."""
    with av.open(io.BytesIO(data)) as clip:
        frames = list(clip.decode(video=0))
    with av.open(io.BytesIO(data)) as clip:
        packets = [bytes(packet) for packet in clip.demux(audio=0) if packet.size]
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames], packets


async def all_given_back(front: RunningFront) -> None:
    """Wait until children have ended and their memory is free for others."""
    decoders = front.front.core.decoders
    async with asyncio.timeout(HANG_S):
        while decoders.held_bytes or decoders.num_children:
            await asyncio.sleep(0.01)


async def test_the_clip_comes_back_with_its_masks_and_its_sound(front: RunningFront) -> None:
    clip = CLIP.read_bytes()
    answer = await ask(front, clip, fps=5, headers={"Accept": "video/mp4"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"] == 'attachment; filename="answer.mp4"'
    before, after = read(clip), read(answer.content)
    assert len(after[0]) == len(before[0])
    assert after[1] == pytest.approx(before[1], abs=1e-3)
    assert after[2] == before[2], "the sound is copied"
    frames = (await ask(front, clip, fps=5)).json()["frames"]
    shown = [
        max((f for f in frames if f["timestamp_s"] <= t + 1e-3), key=lambda f: f["timestamp_s"], default=None)
        for t in after[1]
    ]
    changes = [float(np.abs(one.astype(int) - other).mean()) for one, other in zip(before[0], after[0], strict=True)]
    with_masks = [change for change, frame in zip(changes, shown, strict=True) if frame and frame["masks"]]
    without = [change for change, frame in zip(changes, shown, strict=True) if not frame or not frame["masks"]]
    assert min(with_masks) > max(without, default=0)


async def test_what_cannot_be_drawn_on_has_its_error(front: RunningFront) -> None:
    clip = CLIP.read_bytes()
    for wrong, code in (
        (b"no clip at all", "not_mp4"),
        (clip[: len(clip) // 2], "truncated"),
        (make_clip(sound=None), "no_audio"),
    ):
        answer = await ask(front, wrong, format="overlay")
        assert answer.json()["code"] == code
    answer = await ask(front, clip, format="overlay", rle="uncompressed")
    assert answer.json()["code"] == "bad_option"


async def test_the_bound_of_answers_applies(tmp_path: Path) -> None:
    async with running_front(state_dir=tmp_path, max_answer_bytes=8192) as front:
        answer = await ask(front, make_clip(width=320, height=240), format="overlay", fps=1)
        assert (answer.status_code, answer.json()["code"]) == (422, "answer_too_large")
        await all_given_back(front)


async def overlay_of_job(front: RunningFront, clip: bytes, **options: object) -> httpx.Response:
    """Hand in a job, wait for its end and ask for its result as an overlay, twice."""
    job = (await ask(front, clip, path="/v1/jobs", **options)).json()["job_id"]
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client, asyncio.timeout(HANG_S):
        while (await client.get(f"/v1/jobs/{job}")).json()["state"] not in ("done", "failed"):
            await asyncio.sleep(0.02)
        first, again = [await client.get(f"/v1/jobs/{job}/result", params={"format": "overlay"}) for _ in range(2)]
    assert first.status_code == again.status_code
    return again


async def test_a_job_that_keeps_its_clip_has_an_overlay(front: RunningFront) -> None:
    clip = CLIP.read_bytes()
    answer = await overlay_of_job(front, clip, keep_clip="true", fps=5)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["etag"]
    assert answer.content == (await ask(front, clip, fps=5, format="overlay")).content
    await all_given_back(front)


@pytest.mark.parametrize("options", [{}, {"keep_clip": "false"}, {"keep_clip": ""}])
async def test_a_job_without_its_clip_says_how_to_get_an_overlay(front: RunningFront, options: dict[str, str]) -> None:
    answer = await overlay_of_job(front, make_clip(), **options)
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    assert "keep_clip=true" in answer.json()["detail"]


async def test_a_failed_job_has_its_own_problem_as_overlay(front: RunningFront) -> None:
    answer = await overlay_of_job(front, make_clip(sound=None), keep_clip="true")
    assert (answer.status_code, answer.json()["code"]) == (422, "no_audio")


async def test_a_faulty_keep_clip_is_refused(front: RunningFront) -> None:
    answer = await ask(front, make_clip(), path="/v1/jobs", keep_clip="yes")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_option")


async def test_drawings_wait_for_the_decoders_slots_and_give_them_back(front: RunningFront) -> None:
    clip = make_clip()
    answers = await asyncio.gather(*(ask(front, clip, format="overlay") for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.content for answer in answers}) == 1
    await all_given_back(front)


async def test_a_client_that_leaves_ends_its_drawing(front: RunningFront) -> None:
    with pytest.raises(httpx.ReadTimeout):
        async with httpx.AsyncClient(base_url=front.http_url, timeout=httpx.Timeout(HANG_S, read=0.5)) as client:
            await client.post("/v1/segment", params={"format": "overlay"}, files={"video": long_clip()})
    await all_given_back(front)


def long_clip() -> bytes:
    """A clip that takes longer to draw than the client waits."""
    return make_clip(width=640, height=480, num_frames=250)
