"""Mask logits to masks: upsampling, threshold, COCO run lengths, score, area, box.

All work is done on transposed maps: the COCO encoder needs column-major pixels, and a row-major (W, H) map is the
column-major (H, W) map, without a copy. Copying would take most of the time at HD.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.domain.chunk import MaskPolicy, ProbabilityMap
from service.domain.result import Mask, ModelInfo, Rle

Logits = NDArray[np.float32]
_SCORE_DIGITS = 6
# A class whose logit is this far below the background's adds less than 1.2e-7 to the sum of a softmax, which float32
# does not represent.
_NEGLIGIBLE = -16.0


def encode_masks(logits: Logits, *, policy: MaskPolicy, model: ModelInfo) -> tuple[Mask, ...]:
    """Return the masks of one sample, in label order, without empty ones.

    Upsampling is bilinear with half-pixel centres (torch's `align_corners=False`). Binary models: a pixel is kept
    where the sigmoid is at least the threshold. Semantic ones: a pixel belongs to the class with the largest logit of
    all (background and labels that were not requested included) and is kept where its probability is at least the
    threshold.

    Args:
        logits: float32 (K, h, w) at the head's resolution; K is 1, or 1 + labels with the background first.
        policy: output size, threshold, labels and least area.
        model: the model that computed the logits.

    Raises:
        ValueError: K does not match the model's labels.
    """
    num_channels = len(model.labels) + 1 if model.is_semantic else 1
    if logits.ndim != 3 or len(logits) != num_channels:
        raise ValueError(f"logits must be ({num_channels}, h, w), got {logits.shape}")
    if model.is_semantic:
        return _encode_semantic(logits, policy=policy, labels=model.labels)
    if model.labels[0] not in policy.labels:
        return ()
    return _encode_binary(logits[0], policy=policy, label=model.labels[0])


def probability_maps(logits: Logits, *, labels: Sequence[str], model: ModelInfo) -> tuple[ProbabilityMap, ...]:
    """Return the probabilities of some labels in one sample, at the head's resolution.

    Args:
        logits: float32 (K, h, w); see `encode_masks`.
        labels: whose probabilities; labels of the model.
        model: whose logits these are.
    """
    if model.is_semantic:
        shifted = np.exp(logits - logits.max(axis=0))
        shares = shifted[1:] / shifted.sum(axis=0)
    else:
        shares = _sigmoid(logits).reshape(logits.shape)
    size = (logits.shape[1], logits.shape[2])
    levels = np.round(shares * 255.0).astype(np.uint8)
    return tuple(
        ProbabilityMap(size, base64.b64encode(levels[model.labels.index(label)].tobytes()).decode("ascii"))
        for label in labels
    )


def _encode_binary(logits: Logits, *, policy: MaskPolicy, label: str) -> tuple[Mask, ...]:
    least = _logit(policy.threshold)
    if not logits.max() >= least:  # a bilinear value is never over its neighbours
        return ()
    pixels = _upsample(logits, size=policy.output_size)  # (W, H)
    inside = pixels >= least
    mask = encode_pixels(inside, label=label, min_area=policy.min_area)
    if mask is None:
        return ()
    return (_with_score(mask, _sigmoid(pixels[inside])),)


def _encode_semantic(logits: Logits, *, policy: MaskPolicy, labels: tuple[str, ...]) -> tuple[Mask, ...]:
    """Encode logits relative to the background. Interpolation is linear, so this changes only the cost."""
    relative = logits[1:] - logits[:1]  # (K - 1, h, w); the background is 0 everywhere
    peaks = relative.max(axis=(1, 2))
    if not (peaks > 0).any():
        return ()
    best = np.zeros(policy.output_size[::-1], np.float32)  # (W, H)
    winner = np.full(best.shape, -1, np.int16)
    for channel in np.flatnonzero(peaks > 0):
        pixels = _upsample(relative[channel], size=policy.output_size)
        is_better = pixels > best
        best[is_better] = pixels[is_better]
        winner[is_better] = channel
    foreground = winner >= 0
    total: Logits = np.exp(-best[foreground])  # the background's share of the softmax, scaled by the winner's
    for channel in np.flatnonzero(peaks > _NEGLIGIBLE):
        pixels = _upsample(relative[channel], size=policy.output_size)
        total += np.exp(pixels[foreground] - best[foreground])
    probability = np.zeros_like(best)
    probability[foreground] = 1.0 / total
    masks: list[Mask] = []
    for place, label in enumerate(labels):
        if label not in policy.labels or peaks[place] <= 0:
            continue
        inside = (winner == place) & (probability >= policy.threshold)
        mask = encode_pixels(inside, label=label, min_area=policy.min_area)
        if mask is not None:
            masks.append(_with_score(mask, probability[inside]))
    return tuple(masks)


def _upsample(logits: Logits, *, size: tuple[int, int]) -> Logits:
    """Return a map (h, w) at size (H, W), transposed: float32 (W, H), row-major."""
    transposed = np.ascontiguousarray(logits.T)
    if logits.shape == size:
        return transposed
    height, width = size
    return np.asarray(cv2.resize(transposed, dsize=(height, width), interpolation=cv2.INTER_LINEAR), np.float32)


def encode_pixels(inside: NDArray[np.bool_], *, label: str, min_area: int) -> Mask | None:
    """Return the mask of transposed pixels (W, H) with score 0; None if it has no pixels or fewer than `min_area`."""
    rle = coco.encode(inside.view(np.uint8).T)  # already column-major
    area = int(coco.area(rle))
    if area < max(1, min_area):
        return None
    x, y, width, height = (int(side) for side in coco.toBbox(rle))
    segmentation = Rle(size=(inside.shape[1], inside.shape[0]), counts=rle["counts"].decode("ascii"))
    return Mask(label=label, score=0.0, area=area, bbox=(x, y, width, height), segmentation=segmentation)


def _with_score(mask: Mask, probabilities: Logits) -> Mask:
    score = round(min(1.0, float(probabilities.mean(dtype=np.float64))), _SCORE_DIGITS)
    return Mask(mask.label, score, mask.area, mask.bbox, mask.segmentation)


def _sigmoid(logits: Logits) -> Logits:
    """Return 1 / (1 + exp(-x)). Below -80, exp would overflow float32 and the result is 0 to 34 digits."""
    decay = np.asarray(cv2.exp(-np.maximum(logits, np.float32(-80.0))), np.float32).reshape(-1)
    return np.float32(1.0) / (np.float32(1.0) + decay)


def _logit(probability: float) -> float:
    """Return the logit whose sigmoid is `probability`; infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))
