"""Clips of jobs that are longer than those of requests: the limits of each, through a real front and real decoders."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.inputs.clips import make_clip
from support.servers.front import running_front

HANG_S = 60.0
CLIP = make_clip(width=96, height=64, num_frames=150)  # 6 s


async def ended(client: httpx.AsyncClient, accepted: httpx.Response) -> dict[str, Any]:
    assert accepted.status_code == 202, accepted.text
    async with asyncio.timeout(HANG_S):
        while (job := (await client.get(accepted.headers["location"])).json())["state"] not in ("done", "failed"):
            await asyncio.sleep(0.02)
    found: dict[str, Any] = job
    return found


@pytest.mark.parametrize(("job_max_clip_s", "state"), [(10, "done"), (4, "failed")])
async def test_a_job_has_its_own_limit(tmp_path: Path, job_max_clip_s: float, state: str) -> None:
    async with (
        running_front(state_dir=tmp_path, max_clip_s=3, job_max_clip_s=job_max_clip_s) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client,
    ):
        refused = await client.post("/v1/segment", files={"video": CLIP})
        assert (refused.status_code, refused.json()["code"]) == (422, "too_long")
        accepted = await client.post("/v1/jobs", files={"video": CLIP})
        job = await ended(client, accepted)
        assert job["state"] == state
        result = await client.get(f"{accepted.headers['location']}/result")
        if state == "done":
            assert len(result.json()["frames"]) == 6
        else:
            assert "4 s" in result.json()["detail"]


async def test_a_request_does_not_join_a_job_of_the_same_clip(tmp_path: Path) -> None:
    async with (
        running_front(state_dir=tmp_path, max_clip_s=3, job_max_clip_s=10) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client,
    ):
        accepted, *refused = await asyncio.gather(
            client.post("/v1/jobs", params={"fps": "native"}, files={"video": CLIP}),
            *(client.post("/v1/segment", params={"fps": "native"}, files={"video": CLIP}) for _ in range(3)),
        )
        assert (await ended(client, accepted))["state"] == "done"
        assert {answer.status_code for answer in refused} <= {422, 200}, "a finished job's answer may be in the cache"
