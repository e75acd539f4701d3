"""The shipped predictor on each device and in each number format against float32 on the CPU."""

from pathlib import Path

import numpy as np
import pytest

from model.inference import Predictor
from model.network.preprocess import WINDOW_SAMPLES

# Largest mean difference of a pixel's probability: float32 differs by the order of sums, bfloat16 has 8 bits.
MEAN_SLACK = {"float32": 1e-4, "bfloat16": 0.02}


@pytest.mark.parametrize("dtype", list(MEAN_SLACK))
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_probabilities_are_those_of_float32_on_the_cpu(device, dtype):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
    windows = rng.normal(0, 0.1, (3, WINDOW_SAMPLES)).astype(np.float32)
    expected = _probabilities(Predictor.load(Path("tiny"), device="cpu", dtype="float32").predict(frames, windows))
    predictor = Predictor.load(Path("tiny"), device=device, dtype=dtype)
    found = _probabilities(predictor.predict(frames, windows))
    assert predictor.compute_type == dtype
    assert predictor.device.type == device
    assert np.abs(found - expected).mean() <= MEAN_SLACK[dtype]


def _probabilities(logits):
    return 1 / (1 + np.exp(-logits))
