"""The loss on AVSBench. The paper does not state its loss; ours has the terms of AVSegFormer's.

S4 and MS3: cross-entropy + Dice. AVSS: cross-entropy + 0.1 Dice on the foreground. All: + 0.1 Dice on the channel
mean of the mask feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.avesformer import AVESFormer
from model.network.preprocess import normalise_frames
from model.training.augment import augment_frames, flip_each, zoom_each
from model.training.config import Augmentation
from model.training.losses import binary_mask_loss, dice_loss, semantic_mask_loss, shrink_masks

ENTROPY_WEIGHT = 1.0
FOREGROUND_DICE_WEIGHT = 0.1
AUXILIARY_WEIGHT = 0.1


@dataclass(frozen=True)
class ClipBatch:
    """Labelled frames of several clips.

    Attributes:
        frames: (B, 3, H, W) float32, normalised.
        log_mel: (B, 1, 96, 64) float32.
        truth: (B, H, W) int64: 0 background, 1 sounding (binary data) or the class number.
    """

    frames: Tensor
    log_mel: Tensor
    truth: Tensor


def prepare_clips(
    frames: Tensor, log_mel: Tensor, truth: Tensor, *, augmentation: Augmentation, generator: torch.Generator
) -> ClipBatch:
    """Augment frames and labels together. Audio is not augmented: the frozen VGGish expects its original level.

    Args:
        frames: (B, H, W, 3) uint8.
        log_mel: (B, 1, 96, 64).
        truth: (B, H, W) int64.
        augmentation: which augmentations to apply.
        generator: CPU generator; the only source of randomness.
    """
    if augmentation == "full":
        frames, truth = zoom_each(frames, truth, generator)
    if augmentation != "none":
        frames, truth = flip_each(frames, truth, generator)
    if augmentation == "full":
        frames = augment_frames(frames, generator)
    return ClipBatch(normalise_frames(frames), log_mel, truth)


class ClipObjective(nn.Module):
    """A network with its loss on labelled frames.

    Args:
        model: network to train.
    """

    def __init__(self, model: AVESFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the scalars `loss`, `mask` and `auxiliary`."""
        model = self.model
        feature = model.mask_feature(model.see(batch.frames), model.hear(batch.log_mel))  # (B, C, H / 4, W / 4)
        mask = self._mask_loss(model.head.predict(feature).float(), batch.truth)
        auxiliary = self._auxiliary_loss(feature.float(), batch.truth)
        return {"loss": mask + AUXILIARY_WEIGHT * auxiliary, "mask": mask, "auxiliary": auxiliary}

    def _mask_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        height, width = logits.shape[-2:]
        weights = logits.new_ones(len(logits))
        if self.model.config.is_semantic:
            step = truth.shape[1] // height
            classes = truth[:, step // 2 :: step, step // 2 :: step]
            return semantic_mask_loss(
                logits, classes, weights, entropy_weight=ENTROPY_WEIGHT, dice_weight=FOREGROUND_DICE_WEIGHT
            )
        masks = shrink_masks(truth > 0, height=height, width=width)
        return binary_mask_loss(logits[:, 0], masks, weights, entropy_weight=ENTROPY_WEIGHT)

    def _auxiliary_loss(self, feature: Tensor, truth: Tensor) -> Tensor:
        height, width = feature.shape[-2:]
        masks = shrink_masks(truth > 0, height=height, width=width)
        # The mean over channels is treated as mask logits, as in AVSegFormer.
        return dice_loss(feature.mean(dim=1).sigmoid(), masks).mean()
