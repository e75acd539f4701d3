"""A predictor call that never returns: requests under way end with the documented error, over real servers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from support.inputs.clips import make_clip
from support.inputs.live_inputs import bright_picture, raw_frame
from support.servers.front import RunningFront, running_front
from support.servers.ports import free_port
from support.waiting import until

from service.client.grpc_async import AsyncGrpcClient
from service.client.policy import ClientPolicy
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveInput, LiveMasks, LiveOptions
from service.domain.options import SegmentOptions
from service.domain.result import FrameMasks
from service.predictors.fake import FakePredictor

HANG_S = 60.0
TIMEOUT_S = 1.0
ONCE = ClientPolicy(attempts=1)
RAW = {"Content-Type": "video/mp4"}


class WedgingPredictor(FakePredictor):
    """A predictor whose calls do not return once `num_left` of them did; `gate` lets them return for the next test."""

    def __init__(self) -> None:
        super().__init__()
        self.num_left: int | None = None
        self.gate = threading.Event()

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.num_left is not None:
            self.num_left -= 1
            if self.num_left < 0:
                self.gate.wait()
        return super().predict(frames, windows)


@asynccontextmanager
async def wedging_front(**settings: object) -> AsyncIterator[tuple[RunningFront, WedgingPredictor]]:
    predictor = WedgingPredictor()
    chosen = {"device_timeout_s": TIMEOUT_S, "max_batch": 4, **settings}
    async with running_front(make_predictor=lambda: predictor, **chosen) as running:
        try:
            async with asyncio.timeout(HANG_S):
                yield running, predictor
        finally:
            predictor.gate.set()


def client_of(running: RunningFront) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.http_url, timeout=HANG_S)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_a_stream_over_http_ends_with_an_error_message(accept: str) -> None:
    async with wedging_front() as (running, predictor), client_of(running) as client:
        predictor.num_left = 1
        headers = {**RAW, "Accept": accept}
        answer = await client.post("/v1/segment?fps=native", content=make_clip(num_frames=30), headers=headers)
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if "{" in line]
        messages = [json.loads(line) for line in lines]
        assert answer.status_code == 200
        kinds = [message["type"] for message in messages]
        assert kinds[:2] == ["clip", "frame"]
        assert kinds[-1] == "error"
        problem = messages[-1]["problem"]
        assert (problem["status"], problem["code"]) == (503, "backend_down")
        assert problem["retry_after_s"] > 0
        assert (await client.get("/livez")).status_code == 503


async def test_a_document_that_waits_is_503_and_a_device_that_comes_back_serves_again() -> None:
    async with wedging_front() as (running, predictor), client_of(running) as client:
        clip = make_clip(num_frames=30)
        predictor.num_left = 0
        posts = [client.post(f"/v1/segment?threshold=0.{n}", content=clip, headers=RAW) for n in (4, 5, 6)]
        answers = await asyncio.gather(*posts)
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, "backend_down")] * 3
        assert all("retry-after" in answer.headers for answer in answers)
        predictor.num_left = None
        predictor.gate.set()
        await until(running.front.core.segmenter.is_healthy, what="healthy again")
        again = await client.post("/v1/segment", content=clip, headers=RAW)
        assert (again.status_code, len(again.json()["frames"])) == (200, 1)


async def test_a_call_over_grpc_ends_with_unavailable() -> None:
    async with wedging_front() as (running, predictor):
        predictor.num_left = 1
        frames = []

        async def ask() -> None:
            async with AsyncGrpcClient(running.grpc_target, ONCE) as client:
                async for event in client.stream(make_clip(num_frames=30), SegmentOptions(fps="native")):
                    if isinstance(event, FrameMasks):
                        frames.append(event)

        with pytest.raises(ServiceError) as caught:
            await ask()
        assert caught.value.code == "backend_down"
        assert frames


async def test_a_live_stream_ends_with_unavailable() -> None:
    async with wedging_front() as (running, predictor):
        answered = asyncio.Event()

        async def inputs() -> AsyncIterator[LiveInput]:
            yield raw_frame(0.1, bright_picture())
            await answered.wait()
            predictor.num_left = 0
            yield raw_frame(0.2, bright_picture())
            await asyncio.sleep(HANG_S)

        async def ask() -> None:
            async with AsyncGrpcClient(running.grpc_target, ONCE) as client:
                async for event in client.live(inputs(), LiveOptions(max_audio_wait_s=0.1)):
                    events.append(event)
                    if isinstance(event, LiveMasks):
                        answered.set()

        events: list[LiveEvent] = []
        with pytest.raises(ServiceError) as caught:
            await ask()
        assert caught.value.code == "backend_down"
        assert [type(event).__name__ for event in events] == ["ModelInfo", "LiveMasks"]


async def test_a_job_waits_for_the_next_process_in_place_of_failing(tmp_path: Path) -> None:
    settings = {"state_dir": tmp_path, "port": free_port()}  # the state of a process is found by its port
    clip = make_clip(num_frames=30)
    async with wedging_front(**settings) as (running, predictor), client_of(running) as client:
        predictor.num_left = 1
        location = (await client.post("/v1/jobs?fps=native", content=clip, headers=RAW)).headers["location"]
        await until(lambda: not running.front.core.segmenter.is_healthy(), what="unhealthy")
        await asyncio.sleep(1.0)
        assert (await client.get(location)).json()["state"] in ("queued", "running")
    async with running_front(**settings) as later, client_of(later) as client:
        async with asyncio.timeout(HANG_S):
            while (job := (await client.get(location)).json()).get("state") in ("queued", "running"):
                await asyncio.sleep(0.1)
        assert job.get("state") == "done", job
        assert len((await client.get(f"{location}/result")).json()["frames"]) == 30
