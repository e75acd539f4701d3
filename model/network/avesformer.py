"""AVESFormer, our reconstruction: the forward pass reads like the paper's figure 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from model.network.audio_small import SmallAudioEncoder
from model.network.backbones import Neck, VisualBackbone, check_frame_size
from model.network.config import AudioConfig, ModelConfig
from model.network.decoder import AttentionStatistics, EarlyFocusDecoder
from model.network.heads import build_head
from model.network.kinds import KindExperts, enlarge
from model.network.preprocess import NUM_LOG_MEL_FRAMES, NUM_MEL_BINS
from model.network.prompt_query import PromptQueryGenerator
from model.network.vggish import Vggish
from model.network.yamnet import Yamnet

AUDIO_BRANCHES: Mapping[str, Callable[[AudioConfig], nn.Module]] = {
    "small": SmallAudioEncoder,
    "vggish": Vggish,
    "yamnet": Yamnet,
}


@dataclass(frozen=True)
class VisualFeatures:
    """Features of the picture alone.

    Attributes:
        focused: (B, D, h, w) after the decoder's convolution blocks.
        laterals: finer maps for the mask head.
        seen: (B, K, h, w) logits of the kinds of each place; None without kind experts.
    """

    focused: Tensor
    laterals: list[Tensor]
    seen: Tensor | None = None

    def repeat(self, times: int) -> VisualFeatures:
        """Repeat the same pictures `times` over along the batch, to pair each with several windows."""
        return VisualFeatures(
            self.focused.repeat(times, 1, 1, 1),
            [lateral.repeat(times, 1, 1, 1) for lateral in self.laterals],
            None if self.seen is None else self.seen.repeat(times, 1, 1, 1),
        )


class AVESFormer(nn.Module):
    """Network that predicts which pixels of a frame make the sound of its audio window.

    Frames are independent: no information passes between the samples of a batch.

    Args:
        config: the model configuration.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = VisualBackbone(config.backbone)
        self.neck = Neck(
            self.backbone.channels,
            width=config.width,
            fuse_stride=config.fuse_stride,
            lateral_width=config.head.width,
            has_smoothing=config.has_neck_smoothing,
            norm=config.norm,
        )
        self.audio = AUDIO_BRANCHES[config.audio.kind](config.audio)
        self.prompt_query = PromptQueryGenerator(config)
        self.decoder = EarlyFocusDecoder(config)
        self.head = build_head(config)
        self.experts = _experts(config, visual_channels=self.backbone.channels[-1])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.audio.is_frozen:
            self.audio.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen audio branch stays in eval mode."""
        super().train(mode)
        if self.config.audio.is_frozen:
            self.audio.eval()
        return self

    def forward(self, frames: Tensor, log_mel: Tensor) -> Tensor:
        """Segment.

        Args:
            frames: (B, 3, H, W) normalised float, H and W multiples of 16.
            log_mel: (B, 1, 96, 64) float.

        Returns:
            (B, K, H / stride, W / stride) mask logits.

        Raises:
            ValueError: shapes other than these.
        """
        return self.fuse(self.see(frames), self.hear(log_mel))

    def see(self, frames: Tensor, pyramid: Sequence[Tensor] | None = None) -> VisualFeatures:
        """Return the features that need no sound: backbone, neck, early focus.

        Args:
            frames: as in `forward`.
            pyramid: the backbone's maps of `frames` if they are already computed.
        """
        check_frame_size(frames)
        if pyramid is None:
            pyramid = self.backbone(frames)
        fused, laterals = self.neck(pyramid)
        seen = None if self.experts is None else self.experts.seen(pyramid[-1])
        return VisualFeatures(self.decoder.focus(fused), laterals, seen)

    def hear(self, log_mel: Tensor) -> Tensor:
        """Return the audio embedding (B, embedding_dim) of log_mel (B, 1, 96, 64)."""
        expected = (1, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS)
        if tuple(log_mel.shape[1:]) != expected:
            raise ValueError(f"log_mel: got {tuple(log_mel.shape)}, expected (B, {', '.join(map(str, expected))})")
        return cast(Tensor, self.audio(log_mel))

    def fuse(self, visual: VisualFeatures, embedding: Tensor) -> Tensor:
        """Return mask logits (B, K, H / stride, W / stride) of pictures and audio embeddings of equal B."""
        logits = self.head.predict(self.mask_feature(visual, embedding))
        if self.experts is None or visual.seen is None:
            return logits
        return logits + enlarge(self.experts.prior(visual.seen, embedding), like=logits)

    def mask_feature(self, visual: VisualFeatures, embedding: Tensor) -> Tensor:
        """Return the map from which the logits are predicted, (B, C, H / 4, W / 4). `self.head.predict` reads it.

        Raises:
            ValueError: pictures and embeddings differ in number, or the embedding in width.
        """
        expected = (visual.focused.shape[0], self.config.audio.embedding_dim)
        if tuple(embedding.shape) != expected:
            raise ValueError(f"embedding: got {tuple(embedding.shape)}, expected {expected}")
        prompts = self.prompt_query(embedding)
        fused = self.decoder.fuse(visual.focused, prompts)
        return self.head.mask_feature(fused, visual.laterals, embedding)

    @torch.no_grad()
    def attention_statistics(self, frames: Tensor, log_mel: Tensor) -> list[AttentionStatistics]:
        """Return entropy and spread of each transformer block's cross-attention; arguments as in `forward`."""
        prompts = self.prompt_query(self.hear(log_mel))
        return self.decoder.attention_statistics(self.see(frames).focused, prompts)


def _experts(config: ModelConfig, *, visual_channels: int) -> KindExperts | None:
    if not (config.head.has_kind_experts and config.is_semantic):
        return None
    return KindExperts(visual_channels, embedding_dim=config.audio.embedding_dim, num_classes=len(config.labels))


def parameter_report(model: AVESFormer) -> dict[str, int]:
    """Return the number of parameters of the visual backbone, the audio branch, the rest, and in total."""
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    total = sum(count.values())
    return {
        "backbone": count["backbone"],
        "audio": count["audio"],
        "rest": total - count["backbone"] - count["audio"],
        "total": total,
    }
