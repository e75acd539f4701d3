"""MobileNetV2 at output stride 16 with DeepLab's pooling head (ASPP): the visual backbone of `lite`.

The layers and their names are those of the hub's `google/deeplabv3_mobilenet_v2_1.0_513`. Batch norms are folded into
the convolutions before them, because a data set of some thousand pictures is too small to re-estimate their statistics.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from model.network.layers import SameConv
from model.network.preprocess import FRAME_MEAN, FRAME_STD

# Channels after the stem and after each of the 16 inverted residual layers; strides and dilations at output stride 16.
CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
DILATIONS = (1,) * 13 + (2,) * 3
STEM_CHANNELS = 32
EXPANSION = 6
ASPP_CHANNELS = 256
# Indices of the layers whose outputs are the maps of strides 4 and 8.
STRIDE_4_LAYER, STRIDE_8_LAYER = 1, 4


class Stem(nn.Module):
    """3x3 convolution of stride 2, then a depthwise separable one: (B, 3, H, W) to (B, 16, H / 2, W / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = SameConv(3, STEM_CHANNELS, kernel=3, stride=2)
        self.conv_3x3 = SameConv(STEM_CHANNELS, STEM_CHANNELS, kernel=3, is_depthwise=True)
        self.reduce_1x1 = SameConv(STEM_CHANNELS, CHANNELS[0], activation="none")

    def forward(self, frames: Tensor) -> Tensor:
        """Apply the three convolutions."""
        return cast(Tensor, self.reduce_1x1(self.conv_3x3(self.first_conv(frames))))


class InvertedResidual(nn.Module):
    """Expand the channels six times, convolve each of them, reduce; add the input where the shapes are equal."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        wide = EXPANSION * channels_in
        self.is_residual = stride == 1 and channels_in == channels_out
        self.expand_1x1 = SameConv(channels_in, wide)
        self.conv_3x3 = SameConv(wide, wide, kernel=3, stride=stride, dilation=dilation, is_depthwise=True)
        self.reduce_1x1 = SameConv(wide, channels_out, activation="none")

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        reduced: Tensor = self.reduce_1x1(self.conv_3x3(self.expand_1x1(features)))
        return features + reduced if self.is_residual else reduced


class MobileNetV2(nn.Module):
    """The feature extractor, without its last 1x1 convolution.

    `num_frozen_layers` of the 16 residual layers, and with them the stem, run without gradient (0: none of them).
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_frozen_layers = 0
        self.conv_stem = Stem()
        self.layer = nn.ModuleList(
            InvertedResidual(CHANNELS[i], CHANNELS[i + 1], stride=STRIDES[i], dilation=DILATIONS[i])
            for i in range(len(STRIDES))
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Extract features.

        Args:
            frames: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, 24, H / 4, W / 4), (B, 32, H / 8, W / 8) and (B, 320, H / 16, W / 16).
        """
        is_recording = torch.is_grad_enabled()
        maps: list[Tensor] = []
        with torch.set_grad_enabled(is_recording and self.num_frozen_layers == 0):
            features = self.conv_stem(frames)
        for number, layer in enumerate(self.layer):
            with torch.set_grad_enabled(is_recording and number >= self.num_frozen_layers):
                features = layer(features)
            if number in (STRIDE_4_LAYER, STRIDE_8_LAYER):
                maps.append(features)
        return maps[0], maps[1], features


class PoolingHead(nn.Module):
    """DeepLab's ASPP in its MobileNetV2 form: the mean of the picture beside each place, projected together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_pool = SameConv(CHANNELS[-1], ASPP_CHANNELS, activation="relu")
        self.conv_aspp = SameConv(CHANNELS[-1], ASPP_CHANNELS, activation="relu")
        self.conv_projection = SameConv(2 * ASPP_CHANNELS, ASPP_CHANNELS, activation="relu")

    def forward(self, features: Tensor) -> Tensor:
        """(B, 320, h, w) to (B, 256, h, w)."""
        pooled = self.conv_pool(features.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        return cast(Tensor, self.conv_projection(torch.cat((pooled, self.conv_aspp(features)), dim=1)))


class MobileNetDeepLab(nn.Module):
    """The backbone: maps of strides 4, 8 and 16, the last one after the pooling head."""

    channels: tuple[int, ...] = (CHANNELS[STRIDE_4_LAYER + 1], CHANNELS[STRIDE_8_LAYER + 1], ASPP_CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self.mobilenet_v2 = MobileNetV2()
        self.segmentation_head = PoolingHead()
        # The public weights expect RGB in [-1, 1]; frames arrive normalised by ImageNet's statistics.
        self.scale: Tensor
        self.shift: Tensor
        mean, std = torch.tensor(FRAME_MEAN), torch.tensor(FRAME_STD)
        self.register_buffer("scale", (2 * std)[:, None, None], persistent=False)
        self.register_buffer("shift", (2 * mean - 1)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Extract the pyramid.

        Args:
            frames: (B, 3, H, W) as `model.network.preprocess.normalise_frames` returns them.

        Returns:
            (B, 24, H / 4, W / 4), (B, 32, H / 8, W / 8) and (B, 256, H / 16, W / 16).
        """
        fine, middle, coarse = self.mobilenet_v2(frames * self.scale + self.shift)
        return fine, middle, self.segmentation_head(coarse)
