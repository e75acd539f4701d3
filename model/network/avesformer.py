"""AVESFormer, our reconstruction: the forward pass reads like the paper's figure 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from model.network.audio_small import SmallAudioEncoder
from model.network.backbones import Neck, VisualBackbone, check_frame_size
from model.network.config import ModelConfig
from model.network.decoder import AttentionStatistics, EarlyFocusDecoder
from model.network.heads import build_head
from model.network.preprocess import NUM_LOG_MEL_FRAMES, NUM_MEL_BINS
from model.network.prompt_query import PromptQueryGenerator
from model.network.vggish import Vggish


@dataclass(frozen=True)
class VisualFeatures:
    """What the picture alone gives.

    Attributes:
        focused: (B, D, h, w) after the decoder's convolution blocks.
        laterals: finer maps for the mask head.
    """

    focused: Tensor
    laterals: list[Tensor]

    def repeat(self, times: int) -> VisualFeatures:
        """The same pictures `times` over, along the batch: to pair each with several windows."""
        return VisualFeatures(
            self.focused.repeat(times, 1, 1, 1), [lateral.repeat(times, 1, 1, 1) for lateral in self.laterals]
        )


class AVESFormer(nn.Module):
    """Which pixels of a frame make the sound of its audio window.

    Frames are independent: nothing passes between the samples of a batch.

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
        self.audio = Vggish(config.audio) if config.audio.kind == "vggish" else SmallAudioEncoder(config.audio)
        self.prompt_query = PromptQueryGenerator(config)
        self.decoder = EarlyFocusDecoder(config)
        self.head = build_head(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.audio.is_frozen:
            self.audio.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As usual, except that a frozen audio branch stays in eval mode."""
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

    def see(self, frames: Tensor) -> VisualFeatures:
        """Everything that needs no sound: backbone, neck, early focus."""
        check_frame_size(frames)
        fused, laterals = self.neck(self.backbone(frames))
        return VisualFeatures(self.decoder.focus(fused), laterals)

    def hear(self, log_mel: Tensor) -> Tensor:
        """Audio embedding (B, embedding_dim) of log_mel (B, 1, 96, 64)."""
        expected = (1, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS)
        if tuple(log_mel.shape[1:]) != expected:
            raise ValueError(f"log_mel: got {tuple(log_mel.shape)}, expected (B, {', '.join(map(str, expected))})")
        return cast(Tensor, self.audio(log_mel))

    def fuse(self, visual: VisualFeatures, embedding: Tensor) -> Tensor:
        """Mask logits (B, K, H / stride, W / stride) of pictures and audio embeddings of equal B."""
        return self.head.predict(self.mask_feature(visual, embedding))

    def mask_feature(self, visual: VisualFeatures, embedding: Tensor) -> Tensor:
        """What the logits are read from: (B, C, H / 4, W / 4). `self.head.predict` reads it.

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
        """Entropy and spread of each transformer block's cross-attention; arguments as in `forward`."""
        prompts = self.prompt_query(self.hear(log_mel))
        return self.decoder.attention_statistics(self.see(frames).focused, prompts)


def parameter_report(model: AVESFormer) -> dict[str, int]:
    """Number of parameters of the visual backbone, the audio branch, the rest, and in all."""
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    total = sum(count.values())
    return {
        "backbone": count["backbone"],
        "audio": count["audio"],
        "rest": total - count["backbone"] - count["audio"],
        "total": total,
    }
