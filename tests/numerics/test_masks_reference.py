"""Mask encoding against torch's interpolation and pycocotools on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from service.domain.chunk import MaskPolicy
from service.domain.result import Mask, ModelInfo
from service.media.masks import encode_masks

BINARY = ModelInfo("fake", "sha256:0", ("sounding",), None, 64, 64)
KINDS = ModelInfo("fake", "sha256:0", tuple("abcdefghijkl"), None, 64, 64)
# Logits nearer to a decision than this may fall on either side: the two up-samplings round differently.
NEAR = 1e-3


def reference_upsample(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Float64 (K, H, W) by torch, half-pixel centres, no antialiasing."""
    wide = torch.from_numpy(logits).double()[None]
    return torch.nn.functional.interpolate(wide, size=size, mode="bilinear", align_corners=False)[0].numpy()


def pixels(mask: Mask) -> np.ndarray:
    return coco.decode({"size": list(mask.segmentation.size), "counts": mask.segmentation.counts}).astype(bool)


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logits of the kind a network gives: blobs over a few cells, between about -8 and 8."""
    coarse = rng.normal(0, 6, (*shape[:-2], shape[-2] // 4 + 1, shape[-1] // 4 + 1)).astype(np.float32)
    return reference_upsample(coarse, shape[-2:]).astype(np.float32)


@pytest.mark.parametrize(
    "size", [(56, 56), (224, 224), (120, 160), (720, 1280), (1080, 1920), (640, 360), (31, 47), (1, 1)]
)
def test_binary_masks_are_those_of_torch(size):
    rng = np.random.default_rng(size[0])
    logits = smooth(rng, (1, 56, 56))
    wanted = reference_upsample(logits, size)[0]
    (mask,) = encode_masks(logits, policy=MaskPolicy(size, 0.5, ("sounding",), 0), model=BINARY) or (None,)
    found = pixels(mask) if mask else np.zeros(size, bool)
    is_clear = np.abs(wanted) > NEAR
    np.testing.assert_array_equal(found[is_clear], (wanted > 0)[is_clear])
    if mask:
        probability = 1 / (1 + np.exp(-wanted))
        assert mask.score == pytest.approx(probability[found].mean(), abs=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("size", [(40, 40), (240, 320), (360, 202)])
def test_semantic_masks_are_those_of_torch(size, threshold):
    logits = smooth(np.random.default_rng(size[1]), (len(KINDS.labels) + 1, 40, 40))
    wide = reference_upsample(logits, size)
    exps = np.exp(wide - wide.max(axis=0))
    probability = exps / exps.sum(axis=0)
    ranked = np.sort(wide, axis=0)
    is_clear = (ranked[-1] - ranked[-2] > NEAR) & (np.abs(probability.max(axis=0) - threshold) > NEAR)
    masks = encode_masks(logits, policy=MaskPolicy(size, threshold, KINDS.labels, 0), model=KINDS)
    by_label = {mask.label: pixels(mask) for mask in masks}
    assert list(by_label) == [label for label in KINDS.labels if label in by_label]
    for channel, label in enumerate(KINDS.labels, start=1):
        wanted = (wide.argmax(axis=0) == channel) & (probability.max(axis=0) >= threshold)
        found = by_label.get(label, np.zeros(size, bool))
        np.testing.assert_array_equal(found[is_clear], wanted[is_clear])
    for mask in masks:
        channel = KINDS.labels.index(mask.label) + 1
        assert mask.score == pytest.approx(probability[channel][by_label[mask.label]].mean(), abs=1e-4)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1))
def test_run_lengths_area_and_box_equal_pycocotools_on_plain_arrays(seed, height, width, share):
    inside = np.random.default_rng(seed).random((height, width)) < share
    logits = np.where(inside, 3.0, -3.0).astype(np.float32)[None]
    masks = encode_masks(logits, policy=MaskPolicy((height, width), 0.5, ("sounding",), 0), model=BINARY)
    if not inside.any():
        assert masks == ()
        return
    (mask,) = masks
    reference = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
    assert mask.segmentation.counts.encode() == reference["counts"]
    assert list(mask.segmentation.size) == reference["size"]
    rows, columns = np.nonzero(inside)
    left, top = columns.min(), rows.min()
    assert mask.bbox == (left, top, columns.max() - left + 1, rows.max() - top + 1)
    assert mask.area == inside.sum()


def test_the_early_exit_changes_no_answer():
    """A map whose largest logit is at the threshold, or a hair under it, up-sampled or not."""
    rng = np.random.default_rng(5)
    for peak in (-1e-3, -1e-7, 0.0, 1e-7, 1e-3):
        logits = rng.uniform(-6, -1, (1, 28, 28)).astype(np.float32)
        logits[0, 9, 13] = peak
        masks = encode_masks(logits, policy=MaskPolicy((280, 280), 0.5, ("sounding",), 0), model=BINARY)
        wanted = reference_upsample(logits, (280, 280)) >= 0
        assert bool(masks) == bool(wanted.any()) or abs(peak) <= NEAR
