"""Logits to masks: thresholds, labels, areas, boxes, scores, orientation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as coco

from service.domain.chunk import MaskPolicy
from service.domain.result import Mask, ModelInfo
from service.media.masks import encode_masks

BINARY = ModelInfo("fake", "sha256:0", ("sounding",), None, 64, 64)
KINDS = ModelInfo("fake", "sha256:0", ("bell", "dog", "horn"), None, 64, 64)


def encode(logits, *, model=BINARY, size=None, threshold=0.5, labels=None, min_area=0) -> tuple[Mask, ...]:
    logits = np.asarray(logits, np.float32)
    policy = MaskPolicy(size or logits.shape[1:], threshold, labels or model.labels, min_area)
    return encode_masks(logits, policy=policy, model=model)


def pixels(mask: Mask) -> np.ndarray:
    rle = {"size": list(mask.segmentation.size), "counts": mask.segmentation.counts}
    return coco.decode(rle).astype(bool)


def square(height: int, width: int, rows: slice, columns: slice, *, inside=4.0, outside=-4.0) -> np.ndarray:
    logits = np.full((1, height, width), outside, np.float32)
    logits[0, rows, columns] = inside
    return logits


def test_a_rectangle_keeps_its_place_size_area_and_box():
    (mask,) = encode(square(20, 30, slice(3, 8), slice(10, 27)))
    expected = np.zeros((20, 30), bool)
    expected[3:8, 10:27] = True
    np.testing.assert_array_equal(pixels(mask), expected)
    assert (mask.label, mask.area, mask.bbox, mask.segmentation.size) == ("sounding", 85, (10, 3, 17, 5), (20, 30))
    assert mask.score == pytest.approx(1 / (1 + math.exp(-4)), abs=1e-6)
    assert all(type(value) is int for value in (mask.area, *mask.bbox, *mask.segmentation.size))


def test_up_sampling_keeps_height_and_width_apart():
    (mask,) = encode(square(8, 8, slice(0, 4), slice(0, 8)), size=(48, 160))
    assert mask.segmentation.size == (48, 160)
    assert mask.bbox[:3] == (0, 0, 160)
    assert abs(mask.bbox[3] - 24) <= 1


def test_nothing_over_the_threshold_is_no_mask():
    assert encode(np.full((1, 8, 8), -0.01)) == ()
    assert encode(np.full((1, 8, 8), -0.01), size=(480, 640)) == ()


def test_the_threshold_is_on_the_sigmoid_and_inclusive():
    logits = np.array([[[-1.0, 0.0, 1.0, 2.0]]])
    areas = [sum(mask.area for mask in encode(logits, threshold=t)) for t in (0.0, 0.25, 0.5, 0.7, 0.8, 0.99, 1.0)]
    assert areas == [4, 4, 3, 2, 1, 0, 0]


def test_least_area_and_labels_leave_masks_out():
    logits = square(20, 30, slice(3, 8), slice(10, 27))
    assert len(encode(logits, min_area=85)) == 1
    assert encode(logits, min_area=86) == ()
    assert encode_masks(logits, policy=MaskPolicy((20, 30), 0.5, (), 0), model=BINARY) == ()


def test_extreme_logits_give_finite_scores():
    (mask,) = encode(np.full((1, 4, 4), 3e4), threshold=0.0)
    assert mask.score == 1.0
    (mask,) = encode(np.full((1, 4, 4), -3e4), threshold=0.0)
    assert (mask.score, mask.area) == (0.0, 16)


def semantic_logits() -> np.ndarray:
    """Left third dog, middle third bell, right third background."""
    logits = np.zeros((4, 6, 9), np.float32)
    logits[0, :, 6:] = 5
    logits[1, :, 3:6] = 3
    logits[2, :, :3] = 2
    return logits


def test_semantic_masks_come_in_label_order_without_background():
    bell, dog = encode(semantic_logits(), model=KINDS, threshold=0.0)
    assert (bell.label, bell.bbox, dog.label, dog.bbox) == ("bell", (3, 0, 3, 6), "dog", (0, 0, 3, 6))
    assert bell.score == pytest.approx(math.exp(3) / (math.exp(3) + 3), abs=1e-6)
    assert dog.score == pytest.approx(math.exp(2) / (math.exp(2) + 3), abs=1e-6)


def test_semantic_threshold_is_on_the_class_probability():
    logits = semantic_logits()
    assert [mask.label for mask in encode(logits, model=KINDS, threshold=0.8)] == ["bell"]
    assert encode(logits, model=KINDS, threshold=0.9) == ()


def test_a_label_that_was_not_asked_for_still_wins_its_pixels():
    (dog,) = encode(semantic_logits(), model=KINDS, threshold=0.0, labels=("dog", "horn"))
    assert (dog.label, dog.bbox) == ("dog", (0, 0, 3, 6))


def test_background_only_is_no_mask():
    logits = np.zeros((4, 6, 9), np.float32)
    logits[0] = 1
    assert encode(logits, model=KINDS, threshold=0.0, size=(60, 90)) == ()


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match=r"\(4, h, w\), got \(1, 8, 8\)"):
        encode(np.zeros((1, 8, 8)), model=KINDS)
