"""What a training step on AVSBench minimises. The paper's loss is unknown; the terms are those of the code around it.

S4 and MS3: cross-entropy + Dice. AVSS: cross-entropy + 0.1 Dice on the foreground. Both: + 0.1 Dice on the channel
mean of the mask feature. Which weights the paper uses nobody knows: ours follow AVSegFormer's shape of the loss.
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
    """Labelled frames of some clips.

    Attributes:
        frames: (B, 3, H, W) normalised.
        log_mel: (B, 1, 96, 64).
        truth: (B, H, W) int64, 0 background, 1 sounding or the class number.
    """

    frames: Tensor
    log_mel: Tensor
    truth: Tensor


def prepare_clips(
    frames: Tensor, log_mel: Tensor, truth: Tensor, *, augmentation: Augmentation, generator: torch.Generator
) -> ClipBatch:
    """Augment pictures and labels alike. The sound stays: a frozen VGGish knows no other loudness.

    Args:
        frames: (B, H, W, 3) uint8.
        log_mel: (B, 1, 96, 64).
        truth: (B, H, W) int64.
        augmentation: how much.
        generator: on the CPU; alone decides every random choice.
    """
    if augmentation == "full":
        frames, truth = zoom_each(frames, truth, generator)
    if augmentation != "none":
        frames, truth = flip_each(frames, truth, generator)
    if augmentation == "full":
        frames = augment_frames(frames, generator)
    return ClipBatch(normalise_frames(frames), log_mel, truth)


class ClipObjective(nn.Module):
    """The network with its loss on labelled frames.

    Args:
        model: the network to train.
    """

    def __init__(self, model: AVESFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Losses by name: `loss`, `mask` and `auxiliary`, scalars."""
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
        # The channels' mean is itself read as a mask (as in AVSegFormer).
        return dice_loss(feature.mean(dim=1).sigmoid(), masks).mean()
