"""`python -m support.servers.serve_fake`: the real service process with the fake predictor in the model's place.

FAKE_BATCH_S makes a batch take time, FAKE_ITEM_S each of its samples; batches wait while FAKE_HOLD_FILE exists;
FAKE_HEARTBEAT_S is the silence after which streams send a heartbeat; FAKE_LEAK_BYTES keeps that many bytes of every
call, so that a check of memory can be checked itself; with FAKE_CLOCK the wall clock jumps an hour forth on SIGUSR1 and
back on SIGUSR2.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
from numpy.typing import NDArray

from service.cli.serve import run_front
from service.core import message_writer
from service.predictors.fake import FakePredictor, FakeTiming
from service.settings import Settings

LEAK_BYTES = int(os.environ.get("FAKE_LEAK_BYTES", "0"))


class LeakingPredictor(FakePredictor):
    """Forgets nothing."""

    kept: list[bytes] = []  # noqa: RUF012  # one list for the process is the point

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.kept.append(os.urandom(LEAK_BYTES))
        return super().predict(frames, windows)


def let_clock_jump() -> None:
    """Replace the wall clock; the monotonic clock is left alone, as by a real change of the time of day."""
    real, shift_s = time.time, 0.0

    def shift(number: int, _: object) -> None:
        nonlocal shift_s
        shift_s += 3600.0 if number == signal.SIGUSR1 else -3600.0

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, shift)
    time.time = lambda: real() + shift_s


if __name__ == "__main__":
    if os.environ.get("FAKE_CLOCK"):
        let_clock_jump()
    message_writer.HEARTBEAT_S = float(os.environ.get("FAKE_HEARTBEAT_S", message_writer.HEARTBEAT_S))
    hold = os.environ.get("FAKE_HOLD_FILE", "")

    def spend(seconds: float) -> None:
        time.sleep(seconds)
        while hold and os.path.exists(hold):
            time.sleep(0.02)

    timing = FakeTiming(float(os.environ.get("FAKE_BATCH_S", "0")), float(os.environ.get("FAKE_ITEM_S", "0")))
    predictor = LeakingPredictor if LEAK_BYTES else FakePredictor
    sys.exit(run_front(Settings(), make_predictor=lambda: predictor(timing=timing, sleep=spend)))
