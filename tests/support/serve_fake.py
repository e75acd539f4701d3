"""`python -m support.serve_fake`: the real service process with the fake predictor in the model's place."""

from __future__ import annotations

import os
import sys

from service.backends.predictor_fake import FakePredictor, FakeTiming
from service.cli_serve import run_front
from service.settings import Settings

if __name__ == "__main__":
    timing = FakeTiming(batch_s=float(os.environ.get("FAKE_BATCH_S", "0")))
    sys.exit(run_front(Settings(), make_predictor=lambda: FakePredictor(timing=timing)))
