"""Mask heads: fused feature and finer laterals to a mask feature at stride 4, and that to mask logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import ModelConfig
from model.network.layers import ConvNorm, LiftedConv

# Stride of the finest lateral: the backbone's first stage.
FINEST_STRIDE = 4
# A new mask is nearly empty: sounding pixels are a few per cent of a frame, so logits start at ln(0.02 / 0.98).
EMPTY_BIAS = -4.0


class MaskHead(nn.Module, ABC):
    """Climb to stride 4 over the laterals, then lift to the head's stride.

    The audio gate, where there is one, acts at the first step, so that finer convolutions can still follow an edge.

    Args:
        config: uses `head`, `norm`, `width`, `labels`, `fuse_stride` and `audio.embedding_dim`.
    """

    has_relu_at_joins: ClassVar[bool]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.head.width
        self.lift = FINEST_STRIDE // config.head.stride
        self.reduce = self._reduction(config)
        num_steps = {8: 1, 16: 2}[config.fuse_stride]
        self.smooth = nn.ModuleList(ConvNorm(width, width, kernel=3, norm=config.norm) for _ in range(num_steps))
        self.gate = nn.Linear(config.audio.embedding_dim, width) if config.head.has_audio_gate else None

    def forward(self, fused: Tensor, laterals: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """Predict.

        Args:
            fused: (B, D, h, w) at the fuse stride.
            laterals: finest first, (B, C, H / 4, W / 4) and so on.
            embedding: (B, embedding_dim), used by the gate only.

        Returns:
            (B, K, H / stride, W / stride) mask logits.
        """
        return self.predict(self.mask_feature(fused, laterals, embedding))

    def mask_feature(self, fused: Tensor, laterals: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """The first half of `forward`: (B, C, H / 4, W / 4)."""
        features = self.reduce(fused)
        for step, (lateral, smooth) in enumerate(zip(reversed(laterals), self.smooth, strict=True)):
            features = F.interpolate(features, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            features = features + lateral
            if self.has_relu_at_joins:
                features = F.relu(features)
            if self.gate is not None and step == 0:
                features = features * self.gate(embedding).sigmoid()[:, :, None, None]
            features = F.relu(smooth(features))
        return cast(Tensor, features)

    @abstractmethod
    def predict(self, feature: Tensor) -> Tensor:
        """The second half: mask feature (B, C, H / 4, W / 4) to mask logits (B, K, H / stride, W / stride)."""

    def _reduction(self, config: ModelConfig) -> nn.Module:
        return ConvNorm(config.width, config.head.width, kernel=1, norm=config.norm)


class ShuffleMaskHead(MaskHead):
    """The last step is a pixel shuffle: each stride-4 place holds the logits of its 1, 2x2 or 4x4 finer pixels."""

    has_relu_at_joins = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.logits = nn.Conv2d(config.head.width, len(config.labels) * self.lift**2, 1)
        nn.init.constant_(self.logits.bias, EMPTY_BIAS if not config.is_semantic else 0.0)  # type: ignore[arg-type]
        if config.head.has_kind_experts and config.is_semantic:
            # The first answer is the experts' alone; the head learns what to add.
            nn.init.zeros_(self.logits.weight)

    def predict(self, feature: Tensor) -> Tensor:
        """One 1x1 convolution at stride 4, then the shuffle."""
        return F.pixel_shuffle(self.logits(feature), self.lift)


class ConvMaskHead(MaskHead):
    """Convolution, bilinear lift, convolutions at the final resolution (our reconstruction; the field's usual head)."""

    has_relu_at_joins = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        before, after = config.head.hidden_widths
        self.before = nn.Conv2d(config.head.width, before, 3, padding=1)
        self.after = LiftedConv(before, after, lift=self.lift)
        self.logits = nn.Conv2d(after, len(config.labels), 1, bias=config.head.has_final_bias)
        if self.logits.bias is not None and not config.is_semantic:
            nn.init.constant_(self.logits.bias, EMPTY_BIAS)

    def predict(self, feature: Tensor) -> Tensor:
        """3x3 convolution at stride 4, bilinear lift, 3x3 convolution, ReLU, 1x1 convolution."""
        return cast(Tensor, self.logits(F.relu(self.after(self.before(feature)))))

    def _reduction(self, config: ModelConfig) -> nn.Module:
        return nn.Identity() if config.width == config.head.width else super()._reduction(config)


def build_head(config: ModelConfig) -> MaskHead:
    """The head of the configuration's kind."""
    return ConvMaskHead(config) if config.head.kind == "conv" else ShuffleMaskHead(config)
