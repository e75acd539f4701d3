"""A device that dies or hangs, as CUDA contexts do: liveness fails within the bounds that are documented."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.components.chunks import make_chunk
from support.components.scripted_decoders import Script
from support.servers.rest_front import FrontSpec, rest_front
from support.waiting import until

from service.batching import segmenter as segmenter_module
from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.domain.errors import ServiceError
from service.predictors.fake import FakePredictor
from service.telemetry.metrics import Metrics

RAW = {"Content-Type": "video/mp4"}
# What PyTorch raises from every call once a kernel has failed; the context never recovers.
FATAL = "CUDA error: an illegal memory access was encountered"
TIMEOUT_S = 1.0


class LostDevice(FakePredictor):
    """A predictor whose calls fail or hang from a moment on.

    `fault` is None, `error` (each call raises what CUDA raises), `hang` (each call waits for `gate`), `silent` (batches
    are answered, the health check hangs) or `batches` (batches fail, the health check hangs).
    """

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None
        self.gate = threading.Event()

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.fault in ("error", "batches"):
            raise RuntimeError(FATAL)
        if self.fault == "hang":
            self.gate.wait(120)
        return super().predict(frames, windows)

    def is_healthy(self) -> bool:
        if self.fault == "error":
            raise RuntimeError(FATAL)
        if self.fault is not None:
            self.gate.wait(120)
        return True


@pytest.fixture
def device() -> LostDevice:
    return LostDevice()


async def posted(front, *, num: int = 1):
    return await front.client.post("/v1/segment", content=Script(num_samples=num).encode(), headers=RAW)


async def status(front, path: str) -> int:
    return (await front.client.get(path)).status_code


async def test_a_context_that_dies_in_a_batch_fails_liveness_with_that_batch(tmp_path: Path, device: LostDevice):
    async with rest_front(tmp_path, FrontSpec(predictor=device)) as front:
        assert (await posted(front)).status_code == await status(front, "/livez") == 200
        device.fault = "error"
        failed = await posted(front)
        assert (failed.status_code, failed.json()["code"]) == (503, "backend_down")
        assert await status(front, "/livez") == await status(front, "/readyz") == 503
        device.fault = None  # a dead context stays dead until the process is replaced
        assert (await posted(front)).status_code == 503
        assert await status(front, "/livez") == 503


@pytest.mark.parametrize("fault", ["hang", "batches"])
async def test_a_call_that_hangs_fails_liveness_after_the_device_timeout(
    tmp_path: Path, device: LostDevice, fault: str
):
    batches = BatchPolicy(device_timeout_s=TIMEOUT_S)
    async with rest_front(tmp_path, FrontSpec(predictor=device, batches=batches)) as front:
        device.fault = fault
        waiting = asyncio.create_task(posted(front))
        await until(lambda: not front.segmenter.is_healthy(), what="unhealthy")
        assert await status(front, "/livez") == await status(front, "/readyz") == 503
        refused = await posted(front)
        assert (refused.status_code, refused.json()["code"]) == (503, "backend_down")
        ended = await waiting  # although the call goes on
        assert (ended.status_code, ended.json()["code"]) == (503, "backend_down")
        device.gate.set()
        device.fault = None
        await until(front.segmenter.is_healthy, what="healthy again")
        assert (await posted(front)).status_code == await status(front, "/livez") == 200


@pytest.mark.parametrize("fault", ["error", "silent"])
async def test_an_idle_device_that_dies_is_found_without_a_request(
    monkeypatch: pytest.MonkeyPatch, device: LostDevice, fault: str
):
    monkeypatch.setattr(segmenter_module, "IDLE_CHECK_S", 0.02)
    policy = BatchPolicy(device_timeout_s=TIMEOUT_S)
    segmenter = LocalSegmenter(lambda: device, policy, metrics=Metrics(), clock=time.monotonic)
    await segmenter.start()
    try:
        assert await segmenter.segment(make_chunk("before"))
        device.fault = fault
        await until(lambda: not segmenter.is_healthy(), what="unhealthy")
        with pytest.raises(ServiceError, match="backend_down"):
            await segmenter.segment(make_chunk("after"))
    finally:
        device.gate.set()
        await segmenter.aclose()
