"""One suite for every Predictor: the real model, the fake one of tests, the one that only costs time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.model.untrained import save_untrained

from service.batching.emulated import SleepingPredictor
from service.domain.chunk import WINDOW_SAMPLES
from service.ports import Predictor
from service.predictors.fake import FakePredictor
from service.predictors.torch import load_predictor


@pytest.fixture(scope="module", params=["model", "fake", "fake semantic", "sleeping"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    if request.param == "model":
        folder: Path = tmp_path_factory.mktemp("weights")
        return load_predictor(save_untrained(folder), device="cpu", threads=1)
    if request.param == "sleeping":
        return SleepingPredictor(lambda num: None)
    return FakePredictor(labels=("bell", "dog") if "semantic" in request.param else ("sounding",))


def samples(predictor: Predictor, num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num)
    info = predictor.info
    frames = rng.integers(0, 256, (num, info.input_height, info.input_width, 3)).astype(np.uint8)
    return frames, rng.normal(0, 0.1, (num, WINDOW_SAMPLES)).astype(np.float32)


def test_it_describes_its_checkpoint(predictor: Predictor) -> None:
    info = predictor.info
    assert info.variant
    assert info.checkpoint.startswith("sha256:")
    assert info.labels
    assert min(info.input_height, info.input_width) > 0


@pytest.mark.parametrize("num", [1, 3])
def test_logits_have_a_channel_for_each_label(predictor: Predictor, num: int) -> None:
    logits = predictor.predict(*samples(predictor, num))
    num_labels = len(predictor.info.labels)
    num_channels = 1 if predictor.info.labels == ("sounding",) else num_labels + 1
    assert logits.shape[:2] == (num, num_channels)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_the_same_batch_gives_the_same_bytes(predictor: Predictor) -> None:
    batch = samples(predictor, 2)
    assert predictor.predict(*batch).tobytes() == predictor.predict(*batch).tobytes()


def test_it_is_healthy_and_holds_no_device_memory_on_the_cpu(predictor: Predictor) -> None:
    assert predictor.is_healthy()
    assert predictor.memory_bytes() == 0


def test_compiled_it_gives_the_same_bytes(predictor: Predictor) -> None:
    batch = samples(predictor, 2)
    before = predictor.predict(*batch).tobytes()
    predictor.compile()
    assert predictor.predict(*batch).tobytes() == before
