"""A predictor without weights: a simple function of picture and sound, optionally with the timing of an accelerator."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.chunk import SAMPLE_RATE_HZ
from service.domain.result import SOUNDING, ModelInfo

# Pixels of the frame per logit, as in the mask heads of the real model.
STRIDE = 4
# Loudness is measured over the last 0.2 s of the window, so that only what sounds now counts.
_TAIL_SAMPLES = SAMPLE_RATE_HZ // 5
# RMS of -60 dBFS; below it nothing sounds.
_SILENCE_RMS = 1e-3


@dataclass(frozen=True, slots=True)
class FakeTiming:
    """Seconds of one call: `batch_s` plus `item_s` for each sample. The predictor sleeps for this time."""

    batch_s: float = 0.0
    item_s: float = 0.0


class FakePredictor:
    """Marks the bright parts of the frame while something sounds. With several labels, the amount of red chooses one.

    A row of the result depends only on its own sample, to the byte. Used by tests and by the benchmark's emulated
    accelerator, never by a product route.
    """

    def __init__(
        self,
        *,
        input_height: int = 64,
        input_width: int = 64,
        labels: tuple[str, ...] = (SOUNDING,),
        timing: FakeTiming = FakeTiming(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create a predictor.

        Args:
            input_height: frame height in pixels, a multiple of 4.
            input_width: frame width in pixels, a multiple of 4.
            labels: `("sounding",)` is binary; other labels are semantic, one channel per label after the background.
            timing: emulated cost of a call.
            sleep: called with the seconds to wait.
        """
        name = f"fake {input_height}x{input_width} {','.join(labels)}"
        self._info = ModelInfo(
            variant="fake",
            checkpoint="sha256:" + hashlib.sha256(name.encode()).hexdigest(),
            labels=labels,
            world_version=None,
            input_height=input_height,
            input_width=input_width,
        )
        self._timing = timing
        self._sleep = sleep

    @property
    def info(self) -> ModelInfo:
        """Return a description in place of a checkpoint's."""
        return self._info

    @property
    def compute_type(self) -> str:
        """Return `emulated`."""
        return "emulated"

    @property
    def device_facts(self) -> Mapping[str, str]:
        """Return `emulated` as device and dtype."""
        return {"device": "emulated", "dtype": self.compute_type}

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits float32 (B, K, H / 4, W / 4) for frames uint8 (B, H, W, 3) and windows float32 (B, 15600)."""
        cost_s = self._timing.batch_s + self._timing.item_s * len(frames)
        if cost_s:
            self._sleep(cost_s)
        cells = _cells(frames)  # (B, h, w, 3)
        tail = windows[:, -_TAIL_SAMPLES:]
        is_loud = np.sqrt(np.mean(tail * tail, axis=1)) > _SILENCE_RMS  # (B,)
        brightness = cells.mean(axis=3) / np.float32(255.0)  # (B, h, w)
        sounding = np.where(is_loud[:, None, None], (brightness - np.float32(0.5)) * 16, np.float32(-8.0))
        if not self._info.is_semantic:
            return np.ascontiguousarray(sounding[:, None], dtype=np.float32)
        num_labels = len(self._info.labels)
        kind = (cells[..., 0] // 32).astype(np.int64) % num_labels  # (B, h, w), by the strength of red
        logits = np.full((len(frames), num_labels + 1, *kind.shape[1:]), -4.0, np.float32)
        logits[:, 0] = -sounding
        np.put_along_axis(logits[:, 1:], kind[:, None], sounding[:, None].astype(np.float32), axis=1)
        return logits

    def compile(self) -> bool:
        """Return False: there is nothing to compile."""
        return False

    def is_healthy(self) -> bool:
        """Return True: there is no device to lose."""
        return True

    def memory_bytes(self) -> int:
        """Return 0."""
        return 0


def _cells(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean colour of cells of 4 by 4 pixels: float32 (B, H / 4, W / 4, 3)."""
    num, height, width, _ = frames.shape
    grid = frames.reshape(num, height // STRIDE, STRIDE, width // STRIDE, STRIDE, 3)
    cells: NDArray[np.float32] = grid.mean(axis=(2, 4), dtype=np.float32)
    return cells
