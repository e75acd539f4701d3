"""Losses of the mask head. The paper does not state its losses; binary cross-entropy plus Dice is our choice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# COMBO weighs mask cross-entropy and Dice alike; cross-entropy is a mean over mostly empty pixels, hence the factor.
BCE_WEIGHT = 5.0
# Dice smoothing as a share of the frame: with an empty truth the loss stays small until a blob of about this size
# appears. It is less than the 0.5 % under which a mask counts as empty in all figures, so that small blobs cost, too.
DICE_SMOOTH_SHARE = 0.002


def shrink_masks(masks: Tensor, *, height: int, width: int) -> Tensor:
    """Downsample masks to the resolution of the logits, as the covered share of each cell.

    Args:
        masks: (B, H, W) boolean; H and W multiples of `height` and `width`.
        height: h of the logits.
        width: w of the logits.

    Returns:
        (B, h, w) float32 in [0, 1].

    Raises:
        ValueError: H or W is not a multiple.
    """
    full_height, full_width = masks.shape[1:]
    if full_height % height or full_width % width:
        raise ValueError(f"masks: got {full_height} x {full_width}, expected multiples of {height} x {width}")
    kernel = (full_height // height, full_width // width)
    return F.avg_pool2d(masks.float()[:, None], kernel)[:, 0]


def binary_mask_loss(logits: Tensor, truth: Tensor, weights: Tensor, *, entropy_weight: float = BCE_WEIGHT) -> Tensor:
    """Return the weighted mean over the samples of `entropy_weight` times cross-entropy plus Dice.

    Args:
        logits: (B, h, w).
        truth: (B, h, w) in [0, 1].
        weights: (B,) at least 0; samples of weight 0 do not count.
        entropy_weight: weight of the cross-entropy; Dice has weight 1.

    Returns:
        Scalar, 0 where all weights are 0.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2))  # (B,)
    loss = entropy_weight * entropy + dice_loss(logits.sigmoid(), truth)
    return weighted_mean(loss, weights)


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - smoothed Dice coefficient of each sample: two (B, h, w) in [0, 1] to (B,)."""
    smooth = DICE_SMOOTH_SHARE * truth[0].numel()
    overlap = (probability * truth).sum(dim=(1, 2))
    total = probability.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
    return 1 - (2 * overlap + smooth) / (total + smooth)


# Class of pixels without truth; the value of COCO's and Pascal's label maps.
IGNORED_CLASS = 255


def semantic_mask_loss(
    logits: Tensor, classes: Tensor, weights: Tensor, *, entropy_weight: float = BCE_WEIGHT, dice_weight: float = 1.0
) -> Tensor:
    """Return the weighted mean of `entropy_weight` times cross-entropy plus `dice_weight` times Dice of the foreground.

    Args:
        logits: (B, K, h, w), class 0 the background.
        classes: (B, h, w) int64; 255 does not count.
        weights: (B,).
        entropy_weight: weight of the cross-entropy.
        dice_weight: weight of Dice.

    Returns:
        Scalar.
    """
    counted = (classes != IGNORED_CLASS).to(logits)  # (B, h, w)
    entropy = F.cross_entropy(logits, classes, reduction="none", ignore_index=IGNORED_CLASS).mean(dim=(1, 2))  # (B,)
    foreground = (1 - logits.softmax(dim=1)[:, 0]) * counted
    dice = dice_loss(foreground, (classes > 0).to(logits) * counted)
    return weighted_mean(entropy_weight * entropy + dice_weight * dice, weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of values (B,) with weights (B,), 0 where all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).eps)
