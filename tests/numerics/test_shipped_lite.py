"""The checkpoint that is served by default: on the example clip it marks the animal that is heard, by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.mp4 import read_mp4
from model.data.pictures.recordings import read_recording
from model.inference import Predictor
from model.network.preprocess import WINDOW_SAMPLES

EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"
# Seconds into the clip, and what is heard in the second before; None for silence or what is not in the picture.
MOMENTS = ((1.2, "dog"), (2.6, None), (4.8, "cat"), (6.4, "cow"), (8.0, "sheep"), (9.6, None))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(None, device="cpu", threads=1)


def test_it_says_what_it_knows(predictor: Predictor) -> None:
    info = predictor.info
    assert info.variant == "lite"
    assert info.is_semantic
    assert info.world_version is None
    assert {"dog", "cat", "cow", "sheep", "person", "car"} <= set(info.labels)


def test_the_animal_that_is_heard_is_marked_by_name(predictor: Predictor) -> None:
    size_px = predictor.info.input_height
    frames, _ = read_mp4(EXAMPLE, width=size_px, height=size_px)
    waveform = read_recording(EXAMPLE)
    said = []
    for seconds, _ in MOMENTS:
        end = int(seconds * 16_000)
        window = waveform[max(0, end - WINDOW_SAMPLES) : end]
        logits = predictor.predict(
            frames[int(seconds * 25)][None], np.pad(window, (WINDOW_SAMPLES - len(window), 0))[None]
        )
        classes = torch.from_numpy(logits)[0].argmax(dim=0).numpy()
        counts = np.bincount(classes.ravel(), minlength=len(predictor.info.labels) + 1)[1:]
        said.append(predictor.info.labels[int(counts.argmax())] if counts.sum() > 0.02 * classes.size else None)
    assert said == [kind for _, kind in MOMENTS]
