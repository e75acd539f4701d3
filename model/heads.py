"""Mask head: fused feature and finer laterals to mask logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.layers import ConvNorm

# Stride of the finest lateral: the backbone's first stage.
FINEST_STRIDE = 4
# A new mask is nearly empty: sounding pixels are a few per cent of a frame, so logits start at ln(0.02 / 0.98).
EMPTY_BIAS = -4.0


class MaskHead(nn.Module):
    """Climb to stride 4 over the laterals, then lift to the head's stride.

    The audio gate, where there is one, acts at the first step, so that finer convolutions can still follow an edge.
    The last step is a pixel shuffle: each stride-4 place holds the logits of its 1, 2x2 or 4x4 finer pixels.

    Args:
        config: uses `head`, `width`, `labels`, `fuse_stride` and `audio.embedding_dim`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.head.width
        self.lift = FINEST_STRIDE // config.head.stride
        self.reduce = ConvNorm(config.width, width, kernel=1)
        num_steps = {8: 1, 16: 2}[config.fuse_stride]
        self.smooth = nn.ModuleList(ConvNorm(width, width, kernel=3) for _ in range(num_steps))
        self.gate = nn.Linear(config.audio.embedding_dim, width) if config.head.has_audio_gate else None
        self.logits = nn.Conv2d(width, len(config.labels) * self.lift**2, 1)
        nn.init.constant_(self.logits.bias, EMPTY_BIAS if not config.is_semantic else 0.0)  # type: ignore[arg-type]

    def forward(self, fused: Tensor, laterals: Sequence[Tensor], embedding: Tensor) -> Tensor:
        """Predict.

        Args:
            fused: (B, D, h, w) at the fuse stride.
            laterals: finest first, (B, C, H / 4, W / 4) and so on.
            embedding: (B, embedding_dim), used by the gate only.

        Returns:
            (B, K, H / stride, W / stride) mask logits.
        """
        features = self.reduce(fused)
        for step, (lateral, smooth) in enumerate(zip(reversed(laterals), self.smooth, strict=True)):
            features = F.interpolate(features, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            features = F.relu(features + lateral)
            if self.gate is not None and step == 0:
                features = features * self.gate(embedding).sigmoid()[:, :, None, None]
            features = F.relu(smooth(features))
        return F.pixel_shuffle(self.logits(features), self.lift)
