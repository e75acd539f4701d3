"""`python -m support.servers.fake_worker`: the real worker process with a predictor that needs no weights.

A frame whose first pixel has the poisonous colour ends the process as the kernel would, in the middle of its batch.
With FAKE_POISON_HANGS the call does not return instead, as of a device that is stuck.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import numpy as np
from numpy.typing import NDArray
from support.servers.poison import is_poisonous

from service.cli.worker import run_worker
from service.predictors.fake import FakePredictor, FakeTiming
from service.settings import Settings


class MortalPredictor(FakePredictor):
    """Dies of poisoned frames."""

    def predict(self, frames: NDArray[np.uint8], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        if is_poisonous(frames):
            if os.environ.get("FAKE_POISON_HANGS"):
                threading.Event().wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(frames, windows)


def main() -> None:
    timing = FakeTiming(batch_s=float(os.environ["FAKE_BATCH_S"]), item_s=float(os.environ["FAKE_ITEM_S"]))
    sys.exit(run_worker(Settings(), make_predictor=lambda: MortalPredictor(timing=timing)))


if __name__ == "__main__":
    main()
