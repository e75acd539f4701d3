"""The loss on pictures and recordings: masks under several sounds per picture, kinds seen and kinds heard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND
from model.network.kinds import KindExperts, enlarge
from model.network.mobilenet import DeepLabBackbone
from model.network.yamnet import Yamnet
from model.public_weights.experts import PASCAL_CLASSES
from model.training.losses import IGNORED_CLASS, semantic_mask_loss

SEEN_WEIGHT = 1.0
HEARD_WEIGHT = 0.3
# Background pixels are most pixels; they count less in the expert's loss.
BACKGROUND_WEIGHT = 0.4


@dataclass(frozen=True)
class PictureBatch:
    """Augmented inputs of one step.

    Attributes:
        frames: (P, 3, H, W) normalised.
        classes: (P, H, W) int64: 0 background, 1 + kind, 255 ignored.
        features: (S P + E, C, f, m) output of the audio branch's frozen layers; window s P + p belongs to picture p.
        heard: (S P + E, kinds) boolean.
        num_sounds: S.
    """

    frames: Tensor
    classes: Tensor
    features: Tensor
    heard: Tensor
    num_sounds: int


def heard_classes(classes: Tensor, heard: Tensor) -> Tensor:
    """Replace the classes that do not sound by background.

    Args:
        classes: (B, h, w) int64: 0 background, 1 + kind, 255 ignored.
        heard: (B, kinds) boolean.

    Returns:
        (B, h, w) int64.
    """
    table = F.pad(heard, (1, 0))  # (B, 1 + kinds); the background never sounds
    is_ignored = classes == IGNORED_CLASS
    known = classes.masked_fill(is_ignored, 0)
    sounds = table.gather(1, known.flatten(1)).view_as(classes)
    return (known * sounds).masked_fill(is_ignored, IGNORED_CLASS)


class PicturesObjective(nn.Module):
    """A network with its losses. It adds no weights.

    Args:
        model: a semantic network with kind experts and a YAMNet.
        num_audio_layers: number of YAMNet's layers that have already been applied to a batch's features.
        teacher: backbone with public weights for the distillation loss; None for no such loss.
        teacher_weight: weight of the distillation loss.
    """

    def __init__(
        self,
        model: AVESFormer,
        *,
        num_audio_layers: int,
        teacher: DeepLabBackbone | None = None,
        teacher_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.num_audio_layers = num_audio_layers
        self.teacher = None if teacher is None else teacher.requires_grad_(False)
        self.teacher_weight = teacher_weight
        known = [label in (BACKGROUND, *PASCAL_CLASSES) for label in model.config.labels]
        self.known_classes: Tensor
        self.register_buffer("known_classes", torch.tensor(known), persistent=False)
        self.class_weights: Tensor
        weights = torch.tensor([BACKGROUND_WEIGHT] + [1.0] * (len(model.config.labels) - 1))
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: PictureBatch) -> dict[str, Tensor]:
        """Return losses by name; `loss` is the one to minimise.

        Returns:
            Scalars `loss`, `mask`, `seen`, `heard`.
        """
        experts = cast(KindExperts, self.model.experts)
        pyramid = self.model.backbone(batch.frames)
        visual = self.model.see(batch.frames, pyramid)
        embedding = cast(Yamnet, self.model.audio).late(batch.features, num_layers=self.num_audio_layers)
        num_pairs = batch.num_sounds * len(batch.frames)
        logits = self.model.fuse(visual.repeat(batch.num_sounds), embedding[:num_pairs]).float()
        step = batch.classes.shape[1] // logits.shape[2]
        classes = batch.classes[:, step // 2 :: step, step // 2 :: step]  # (P, h, w)
        truth = heard_classes(classes.repeat(batch.num_sounds, 1, 1), batch.heard[:num_pairs])
        mask = semantic_mask_loss(logits, truth, torch.ones(num_pairs, device=logits.device))
        seen_logits = enlarge(cast(Tensor, visual.seen).float(), like=logits)
        seen = F.cross_entropy(seen_logits, classes, weight=self.class_weights, ignore_index=IGNORED_CLASS)
        scores = experts.heard(embedding).float()
        heard = F.binary_cross_entropy_with_logits(scores, batch.heard.float(), reduction="none").sum(dim=1).mean()
        loss = mask + SEEN_WEIGHT * seen + HEARD_WEIGHT * heard
        losses = {"mask": mask, "seen": seen, "heard": heard}
        if self.teacher is not None:
            losses["kept"] = self._departure(pyramid[-1], batch)
            loss = loss + self.teacher_weight * losses["kept"]
        return {"loss": loss, **losses}

    def _departure(self, features: Tensor, batch: PictureBatch) -> Tensor:
        """Return the relative squared distance from the teacher's features, over pixels of classes that it knows."""
        with torch.no_grad():
            wanted = cast(nn.Module, self.teacher)(batch.frames)[-1].float()  # (P, 256, h, w)
        classes = F.interpolate(batch.classes[:, None].float(), size=wanted.shape[-2:], mode="nearest").long()
        is_known = F.pad(self.known_classes, (0, 256 - len(self.known_classes)))[classes].float()  # (P, 1, h, w)
        distance = ((features.float() - wanted).square() * is_known).sum()
        size: Tensor = (wanted.square() * is_known).sum() + 1.0
        share: Tensor = distance / size
        return share
