"""The visual backbone by name, and the neck that fuses its pyramid to one width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import EFFICIENTNET_DEEPLAB, MOBILENET_DEEPLAB, BackboneConfig, NormKind
from model.network.layers import ConvNorm
from model.network.mobilenet import DeepLabBackbone, EfficientNetLiteDeepLab, MobileNetDeepLab
from model.network.pvt_v2 import PvtV2
from model.network.resnet import ResNet

PYRAMID_STRIDES = (4, 8, 16, 32)


BACKBONES: Mapping[str, Callable[..., ResNet | PvtV2 | DeepLabBackbone]] = {
    "resnet": ResNet,
    "pvt_v2": PvtV2,
    MOBILENET_DEEPLAB: MobileNetDeepLab,
    EFFICIENTNET_DEEPLAB: EfficientNetLiteDeepLab,
}


class VisualBackbone(nn.Module):
    """Feature maps at strides 4, 8, 16 and, except for those that end in `_deeplab`, 32.

    Args:
        config: model type (a key of `BACKBONES`) and keyword arguments of that class.

    Raises:
        ValueError: an unknown model type, or options that its class does not take.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        if config.model_type not in BACKBONES:
            raise ValueError(f"model_type: got {config.model_type!r}, expected one of {', '.join(BACKBONES)}")
        try:
            self.network = BACKBONES[config.model_type](**config.options)
        except TypeError as error:
            raise ValueError(f"backbone.options: {error}") from error
        self.channels: tuple[int, ...] = self.network.channels

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Extract the pyramid.

        Args:
            frames: (B, 3, H, W) normalised, H and W multiples of 16.

        Returns:
            Maps (B, C_i, H / s_i, W / s_i) for s = 4, 8, 16, 32, the last rounded up; networks that end in
            `_deeplab` have no map of stride 32.
        """
        pyramid: tuple[Tensor, ...] = self.network(frames)
        return pyramid


class Neck(nn.Module):
    """Top-down pyramid: every level to D channels, summed downwards to the fuse stride.

    Args:
        channels: C of the levels, finest first.
        width: D.
        fuse_stride: 8 or 16; finer levels become laterals for the head.
        lateral_width: channels of the laterals.
        has_smoothing: end with a 3x3 convolution.
        norm: kind of norm after each convolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int,
        fuse_stride: int,
        lateral_width: int,
        has_smoothing: bool,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        self.num_laterals = PYRAMID_STRIDES.index(fuse_stride)
        self.laterals = nn.ModuleList(
            ConvNorm(count, lateral_width, kernel=1, norm=norm) for count in channels[: self.num_laterals]
        )
        self.inner = nn.ModuleList(
            ConvNorm(count, width, kernel=1, norm=norm) for count in channels[self.num_laterals :]
        )
        self.smooth = ConvNorm(width, width, kernel=3, norm=norm) if has_smoothing else nn.Identity()

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Fuse.

        Args:
            pyramid: one map per level, finest first.

        Returns:
            (B, D, h, w) at the fuse stride, and the laterals (finest first), strides 4 up to half the fuse stride.
        """
        levels = [project(level) for project, level in zip(self.inner, pyramid[self.num_laterals :], strict=True)]
        fused = levels[-1]
        for level in reversed(levels[:-1]):
            fused = level + F.interpolate(fused, size=level.shape[-2:], mode="bilinear", align_corners=False)
        laterals = [project(level) for project, level in zip(self.laterals, pyramid, strict=False)]
        return F.relu(self.smooth(fused)), laterals


def check_frame_size(frames: Tensor) -> None:
    """Raise ValueError unless frames are (B, 3, H, W) with H and W multiples of 16.

    The fused grid (stride 8 or 16) must divide the frame; the coarsest map, of stride 32, may be rounded up.
    """
    stride = PYRAMID_STRIDES[-2]
    if frames.ndim != 4 or frames.shape[1] != 3 or any(size % stride or size == 0 for size in frames.shape[2:]):
        raise ValueError(f"frames: got {tuple(frames.shape)}, expected (B, 3, H, W), H and W multiples of {stride}")
    if not torch.is_floating_point(frames):
        raise ValueError(f"frames: got {frames.dtype}, expected a floating dtype")
