"""The weights that are shipped: they are trained, they follow the sound, and they know what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.synthetic import WORLD_VERSION, SampleBatch, sample_batch
from model.inference import Predictor

# Seeds far below those of training (2**32 and up).
UNSEEN = range(7_000_000, 7_000_020)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(Path("tiny"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def batch(predictor: Predictor) -> SampleBatch:
    size_px = predictor.info.input_height
    return sample_batch(UNSEEN, samples_per_clip=2, size_px=size_px, device=torch.device("cpu"))


def masks(predictor: Predictor, frames: torch.Tensor, windows: torch.Tensor) -> np.ndarray:
    """Boolean (B, H, W) at the frames' size."""
    logits = torch.from_numpy(predictor.predict(frames.numpy(), windows.numpy()))
    full = torch.nn.functional.interpolate(logits, size=frames.shape[1:3], mode="bilinear", align_corners=False)
    return (full[:, 0] > 0).numpy()


def mean_iou(said: np.ndarray, true: np.ndarray, rows: np.ndarray) -> float:
    inter = (said & true).sum((1, 2))[rows]
    union = (said | true).sum((1, 2))[rows]
    return float((inter / np.maximum(union, 1)).mean())


def test_it_says_which_world_it_learned(predictor: Predictor) -> None:
    assert predictor.info.world_version == WORLD_VERSION
    assert predictor.info.labels == ("sounding",)
    assert predictor.info.variant == "tiny"
    assert predictor.info.checkpoint.startswith("sha256:")


def test_it_finds_what_sounds(predictor: Predictor, batch: SampleBatch) -> None:
    true = batch.masks.numpy()
    rows = true.any((1, 2)) & ~batch.ambiguous.numpy()
    assert rows.sum() >= 8
    assert mean_iou(masks(predictor, batch.frames, batch.windows), true, rows) >= 0.55


def test_it_follows_the_sound_and_not_the_picture(predictor: Predictor, batch: SampleBatch) -> None:
    """The same pictures with another clip's sound: the masks move to what that sound says."""
    true = batch.masks.numpy()
    rows = true.any((1, 2)) & ~batch.ambiguous.numpy()
    said = masks(predictor, batch.frames, batch.windows.roll(2, dims=0))
    heard = batch.sounding_kinds.roll(2, dims=0)
    lookup = torch.cat([torch.zeros(len(heard), 1, dtype=torch.bool), heard], dim=1)  # (B, 1 + kinds)
    places = batch.kind_map.flatten(1).long()  # (B, H*W)
    asked = torch.gather(lookup, 1, places).view(batch.masks.shape).numpy()
    is_other = rows & ~(asked & true).any((1, 2))
    assert is_other.sum() >= 5
    assert mean_iou(said, true, is_other) <= 0.35


def test_silence_has_no_pixels(predictor: Predictor, batch: SampleBatch) -> None:
    said = masks(predictor, batch.frames, torch.zeros_like(batch.windows))
    assert (said.mean((1, 2)) < 0.005).mean() >= 0.95
