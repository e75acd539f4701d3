"""The loss on the synthetic world: masks for true and for swapped sound, and two auxiliary classification losses.

The heads of the auxiliary losses are not part of a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.data.synthetic import MIN_VISIBLE_SHARE, SampleBatch
from model.network.avesformer import AVESFormer
from model.network.preprocess import normalise_frames, window_log_mel
from model.training.augment import augment_frames, augment_windows, flip, quiet_windows
from model.training.losses import binary_mask_loss, semantic_mask_loss, shrink_masks, weighted_mean

# One window without a source (silence or noise) is added per this many real windows.
SAMPLES_PER_QUIET = 8
# Share of swapped windows that must contain the sound of some object in the picture.
MATCHING_SHARE = 0.6
# Weight of background pixels, which are the majority, in the per-pixel kind loss.
BACKGROUND_WEIGHT = 0.3
PIXEL_KIND_WEIGHT = 0.5
AUDIO_KIND_WEIGHT = 0.5
# Weight of ambiguous samples (near an onset or offset): their truth is uncertain, but they teach timing.
AMBIGUOUS_WEIGHT = 0.3
# Weight of samples in which nothing visible sounds: a false alarm is worse than a miss.
EMPTY_WEIGHT = 1.3


@dataclass(frozen=True)
class PreparedBatch:
    """Augmented inputs of one step.

    Attributes:
        frames: (B, 3, H, W) float32, normalised.
        log_mel: (A, 1, 96, 64) float32: the windows of the B frames, then those without a source.
        kind_map: (B, H, W) int64: 0 background, else 1 + kind.
        sounding: (A, kinds) bool: kinds that each window contains.
        ambiguous: (A,) bool.
        swapped: (B,) int64: for each frame the index of another window.
    """

    frames: Tensor
    log_mel: Tensor
    kind_map: Tensor
    sounding: Tensor
    ambiguous: Tensor
    swapped: Tensor


def prepare(batch: SampleBatch, generator: torch.Generator) -> PreparedBatch:
    """Augment a batch and choose the swapped windows.

    Args:
        batch: rendered samples.
        generator: CPU generator; the only source of randomness.
    """
    frames, kind_map = flip(batch.frames, batch.kind_map, generator)
    frames = augment_frames(frames, generator)
    num_quiet = max(1, len(frames) // SAMPLES_PER_QUIET)
    quiet = quiet_windows(num_quiet, generator).to(batch.windows.device)
    windows = torch.cat((augment_windows(batch.windows, generator), quiet))
    silent = batch.sounding_kinds.new_zeros(num_quiet, batch.sounding_kinds.shape[1])
    sounding = torch.cat((batch.sounding_kinds, silent))
    classes = kind_map.long()
    return PreparedBatch(
        frames=normalise_frames(frames),
        log_mel=window_log_mel(windows),
        kind_map=classes,
        sounding=sounding,
        ambiguous=torch.cat((batch.ambiguous, batch.ambiguous.new_zeros(num_quiet))),
        swapped=choose_swapped(classes, sounding, generator),
    )


def choose_swapped(kind_map: Tensor, sounding: Tensor, generator: torch.Generator) -> Tensor:
    """Choose another window for each frame, often one that contains the sound of an object in the frame.

    Args:
        kind_map: (B, H, W) int64.
        sounding: (A, kinds) bool, A >= B; window i < B belongs to frame i.
        generator: CPU generator.

    Returns:
        (B,) int64 in [0, A), never the frame's own window.
    """
    count, num_kinds = len(kind_map), sounding.shape[1]
    flat = kind_map.flatten(1)
    visible = torch.zeros(count, num_kinds + 1, device=flat.device).scatter_(1, flat, 1.0)[:, 1:]  # (B, kinds)
    matches = (visible @ sounding.float().T > 0).cpu()  # (B, A)
    own = torch.eye(count, len(sounding), dtype=torch.bool)
    wants_match = torch.rand(count, 1, generator=generator) < MATCHING_SHARE
    allowed = ~own & (~wants_match | matches)
    allowed = torch.where(allowed.any(dim=1, keepdim=True), allowed, ~own)
    return torch.multinomial(allowed.float(), 1, generator=generator)[:, 0].to(kind_map.device)


def sounding_masks(kind_map: Tensor, sounding: Tensor) -> Tensor:
    """Return the visible pixels of the sounding kinds: (B, H, W) int64 and (B, kinds) bool to (B, H, W) bool."""
    table = F.pad(sounding, (1, 0))  # (B, 1 + kinds); the background never sounds
    return table.gather(1, kind_map.flatten(1)).view_as(kind_map)


class TrainingObjective(nn.Module):
    """A network with its loss and auxiliary heads. Only the network is saved in checkpoints.

    The auxiliary heads classify the kind of each pixel and the kinds in each window. They train both branches before
    the fusion has learned anything.

    Args:
        model: network to train.
        num_kinds: number of kinds in the synthetic world.
    """

    def __init__(self, model: AVESFormer, *, num_kinds: int) -> None:
        super().__init__()
        config = model.config
        self.model = model
        self.pixel_kinds = nn.ModuleList(
            (nn.Conv2d(config.width, num_kinds + 1, 1), nn.Conv2d(config.head.width, num_kinds + 1, 1))
        )
        self.audio_kinds = nn.Linear(config.audio.embedding_dim, num_kinds)
        self.class_weights: Tensor
        self.register_buffer("class_weights", torch.tensor([BACKGROUND_WEIGHT] + [1.0] * num_kinds))

    def forward(self, batch: PreparedBatch) -> dict[str, Tensor]:
        """Return the scalars `loss` (to minimise), `mask`, `swapped`, `pixel_kind` and `audio_kind`."""
        visual = self.model.see(batch.frames)
        embedding = self.model.hear(batch.log_mel)
        count = len(batch.frames)
        index = torch.cat((torch.arange(count, device=batch.swapped.device), batch.swapped))  # (2B,)
        logits = self.model.fuse(visual.repeat(2), embedding[index])  # (2B, K, h, w)
        own, swapped = (self._mask_loss(*pair, batch) for pair in zip(logits.chunk(2), index.chunk(2), strict=True))
        pixel = self._pixel_loss((visual.focused, visual.laterals[-1]), batch.kind_map)
        audio = self._audio_loss(embedding, batch)
        loss = own + swapped + PIXEL_KIND_WEIGHT * pixel + AUDIO_KIND_WEIGHT * audio
        return {"loss": loss, "mask": own, "swapped": swapped, "pixel_kind": pixel, "audio_kind": audio}

    def _mask_loss(self, logits: Tensor, index: Tensor, batch: PreparedBatch) -> Tensor:
        logits = logits.float()
        masks = sounding_masks(batch.kind_map, batch.sounding[index])  # (B, H, W)
        share = masks.float().mean(dim=(1, 2))
        weights = torch.where(batch.ambiguous[index], AMBIGUOUS_WEIGHT, 1.0)
        weights = weights * ((share == 0) * EMPTY_WEIGHT + (share >= MIN_VISIBLE_SHARE))
        height, width = logits.shape[-2:]
        if self.model.config.is_semantic:
            step = batch.kind_map.shape[1] // height
            classes = (batch.kind_map * masks)[:, step // 2 :: step, step // 2 :: step]
            return semantic_mask_loss(logits, classes, weights)
        return binary_mask_loss(logits[:, 0], shrink_masks(masks, height=height, width=width), weights)

    def _pixel_loss(self, maps: tuple[Tensor, ...], kind_map: Tensor) -> Tensor:
        losses = []
        for features, head in zip(maps, self.pixel_kinds, strict=True):
            step = kind_map.shape[1] // features.shape[-2]
            target = kind_map[:, step // 2 :: step, step // 2 :: step]
            losses.append(F.cross_entropy(head(features).float(), target, weight=self.class_weights))
        return torch.stack(losses).mean()

    def _audio_loss(self, embedding: Tensor, batch: PreparedBatch) -> Tensor:
        scores = self.audio_kinds(F.relu(embedding)).float()
        entropy = F.binary_cross_entropy_with_logits(scores, batch.sounding.float(), reduction="none").sum(dim=1)
        return weighted_mean(entropy, torch.where(batch.ambiguous, AMBIGUOUS_WEIGHT, 1.0))
