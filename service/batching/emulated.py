"""An emulated accelerator behind the real batcher, for `POST /bench/batch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.domain.chunk import WINDOW_SAMPLES, Chunk, MaskPolicy, SampleBlock
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.domain.result import SOUNDING, ModelInfo
from service.telemetry.metrics import Metrics

ITEM_SIDE_PX = 64
# 12 288: one frame of 64 x 64 RGB.
ITEM_BYTES = ITEM_SIDE_PX * ITEM_SIDE_PX * 3
DEFAULT_MAX_BATCH = 64


class SleepingPredictor:
    """Sleeps instead of computing, as the host does while an accelerator works. Implements `ports.Predictor`.

    Args:
        spend: called with the number of samples of a call; sleeps.
    """

    info = ModelInfo("emulated", "sha256:" + "0" * 64, (SOUNDING,), None, ITEM_SIDE_PX, ITEM_SIDE_PX)
    compute_type = "emulated"
    device_facts: ClassVar[Mapping[str, str]] = {"device": "emulated", "dtype": "emulated"}

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        self._spend(len(frames))
        return np.full((len(frames), 1, 16, 16), -8.0, np.float32)

    def compile(self) -> bool:
        return False

    def is_healthy(self) -> bool:
        return True

    def memory_bytes(self) -> int:
        return 0


class BenchAccelerator:
    """Sends one-frame items through batcher, device thread and encoder. The device sleeps `batch_s + item_s * n`.

    Every batch size is a shape of its own, because padding costs the emulated device nothing.
    """

    def __init__(
        self, *, batch_s: float, item_s: float, max_batch: int = DEFAULT_MAX_BATCH, metrics: Metrics, clock: Clock
    ) -> None:
        """Create the parts; `start` starts them.

        Args:
            batch_s: seconds of a device call of any size.
            item_s: additional seconds for each item.
            max_batch: most items of one call.
            metrics: batch and stage metrics.
            clock: seconds, monotonic.
        """
        self._is_cold = True
        self._warm_up_s = 0.0  # emulated seconds of the warm-up
        self._clock = clock
        policy = BatchPolicy(max_batch=max_batch, buckets=tuple(range(1, max_batch + 1)))
        predictor = SleepingPredictor(lambda num: self._sleep(batch_s + item_s * num))
        self._segmenter = LocalSegmenter(lambda: predictor, policy, metrics=metrics, clock=self._now_s)
        self._silence = np.zeros(WINDOW_SAMPLES, np.int16)
        self._zero, self._origin = np.zeros(1), np.zeros(1, np.int64)

    async def start(self) -> None:
        """Warm up. These calls advance the clock instead of sleeping, so that 64 shapes do not take seconds."""
        await self._segmenter.start()
        self._is_cold = False
        self._warm_up_s = 0.0

    async def aclose(self) -> None:
        """Stop at once."""
        await self._segmenter.aclose()

    def expect(self, request_id: str) -> AbstractContextManager[None]:
        """Announce an item while the context is open; see `Segmenter.expect`."""
        return self._segmenter.expect(request_id)

    async def answer(self, body: bytes, context: RequestContext) -> dict[str, object]:
        """Return the reply for one item. Raises ServiceError `malformed_body` unless it has 12 288 bytes."""
        if len(body) != ITEM_BYTES:
            raise ServiceError("malformed_body", f"The item has {len(body)} bytes; send {ITEM_BYTES}.")
        frame = np.frombuffer(body, np.uint8).reshape(1, ITEM_SIDE_PX, ITEM_SIDE_PX, 3)
        samples = SampleBlock(frame, self._silence, self._origin, self._zero, self._zero, self._origin)
        masks = MaskPolicy((ITEM_SIDE_PX, ITEM_SIDE_PX), 0.5, (SOUNDING,), 0)
        chunk = Chunk(context.request_id, 0, samples, masks, context.deadline)
        done = await self._segmenter.segment(chunk)
        return {"request_id": context.request_id, "num_masks": len(done.frames[0].masks), "queue_s": done.queue_s}

    def _sleep(self, seconds: float) -> None:
        if self._is_cold:
            self._warm_up_s += seconds
        else:
            time.sleep(seconds)

    def _now_s(self) -> float:
        return self._clock() + self._warm_up_s
