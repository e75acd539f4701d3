"""MobileNetV2 and EfficientNet-Lite0 at output stride 16 with DeepLab's pooling head (ASPP).

MobileNetV2 is the visual backbone of `lite`: the layers and their names are those of the hub's
`google/deeplabv3_mobilenet_v2_1.0_513`. EfficientNet-Lite0 (tensorflow/tpu, `efficientnet/lite`) has the same stem and
the same kind of layers in other numbers and sizes. Batch norms are folded into the convolutions before them, because a
data set of some thousand pictures is too small to re-estimate their statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from model.network.layers import SameConv
from model.network.preprocess import FRAME_MEAN, FRAME_STD

STEM_CHANNELS, STEM_CHANNELS_OUT = 32, 16
EXPANSION = 6
ASPP_CHANNELS = 256


@dataclass(frozen=True)
class ResidualRow:
    """One inverted residual layer: its output channels, and kernel, stride and dilation of its depthwise step."""

    channels: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class ResidualTable:
    """The layers after the stem, at output stride 16.

    Attributes:
        rows: one per layer.
        stride_4_row: index of the layer whose output is the map of stride 4.
        stride_8_row: the same for stride 8.
    """

    rows: tuple[ResidualRow, ...]
    stride_4_row: int
    stride_8_row: int


# Where the published network has its last stride of 2, the layers after it have a dilation of 2 here.
MOBILENET_V2 = ResidualTable(
    (
        *(ResidualRow(24, stride=2), ResidualRow(24)),
        *(ResidualRow(32, stride=2), *(2 * [ResidualRow(32)])),
        *(ResidualRow(64, stride=2), *(3 * [ResidualRow(64)])),
        *(3 * [ResidualRow(96)]),
        *(ResidualRow(160), *(2 * [ResidualRow(160, dilation=2)])),
        ResidualRow(320, dilation=2),
    ),
    stride_4_row=1,
    stride_8_row=4,
)
EFFICIENTNET_LITE0 = ResidualTable(
    (
        *(ResidualRow(24, stride=2), ResidualRow(24)),
        *(ResidualRow(40, kernel=5, stride=2), ResidualRow(40, kernel=5)),
        *(ResidualRow(80, stride=2), *(2 * [ResidualRow(80)])),
        *(3 * [ResidualRow(112, kernel=5)]),
        *(ResidualRow(192, kernel=5), *(3 * [ResidualRow(192, kernel=5, dilation=2)])),
        ResidualRow(320, dilation=2),
    ),
    stride_4_row=1,
    stride_8_row=3,
)


class Stem(nn.Module):
    """3x3 convolution of stride 2, then a depthwise separable one: (B, 3, H, W) to (B, 16, H / 2, W / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = SameConv(3, STEM_CHANNELS, kernel=3, stride=2)
        self.conv_3x3 = SameConv(STEM_CHANNELS, STEM_CHANNELS, kernel=3, is_depthwise=True)
        self.reduce_1x1 = SameConv(STEM_CHANNELS, STEM_CHANNELS_OUT, activation="none")

    def forward(self, frames: Tensor) -> Tensor:
        """Apply the three convolutions."""
        return cast(Tensor, self.reduce_1x1(self.conv_3x3(self.first_conv(frames))))


class InvertedResidual(nn.Module):
    """Expand the channels six times, convolve each of them, reduce; add the input where the shapes are equal."""

    def __init__(self, channels_in: int, row: ResidualRow) -> None:
        super().__init__()
        wide = EXPANSION * channels_in
        self.is_residual = row.stride == 1 and channels_in == row.channels
        self.expand_1x1 = SameConv(channels_in, wide)
        # Named after MobileNetV2's kernel, as the public keys are; EfficientNet-Lite0 has 5x5 here too.
        self.conv_3x3 = SameConv(
            wide, wide, kernel=row.kernel, stride=row.stride, dilation=row.dilation, is_depthwise=True
        )
        self.reduce_1x1 = SameConv(wide, row.channels, activation="none")

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        reduced: Tensor = self.reduce_1x1(self.conv_3x3(self.expand_1x1(features)))
        return features + reduced if self.is_residual else reduced


class InvertedResidualNet(nn.Module):
    """The feature extractor, without its last 1x1 convolution.

    `num_frozen_layers` of the residual layers, and with them the stem, run without gradient (0: none of them).
    """

    def __init__(self, table: ResidualTable) -> None:
        super().__init__()
        self.num_frozen_layers = 0
        self.map_rows = (table.stride_4_row, table.stride_8_row)
        channels = [STEM_CHANNELS_OUT, *(row.channels for row in table.rows)]
        self.conv_stem = Stem()
        self.layer = nn.ModuleList(
            InvertedResidual(count, row) for count, row in zip(channels, table.rows, strict=False)
        )

    def freeze(self, num_layers: int) -> None:
        """Exclude the stem and the first layers from training; 0 excludes nothing."""
        self.num_frozen_layers = num_layers
        if num_layers:
            self.conv_stem.requires_grad_(False)
            for layer in list(self.layer)[:num_layers]:
                layer.requires_grad_(False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Extract features.

        Args:
            frames: (B, 3, H, W) in [-1, 1].

        Returns:
            (B, C_i, H / s_i, W / s_i) for s = 4, 8, 16; C = 24, 32, 320 (MobileNetV2) or 24, 40, 320.
        """
        is_recording = torch.is_grad_enabled()
        maps: list[Tensor] = []
        with torch.set_grad_enabled(is_recording and self.num_frozen_layers == 0):
            features = self.conv_stem(frames)
        for number, layer in enumerate(self.layer):
            with torch.set_grad_enabled(is_recording and number >= self.num_frozen_layers):
                features = layer(features)
            if number in self.map_rows:
                maps.append(features)
        return maps[0], maps[1], features


class PoolingHead(nn.Module):
    """DeepLab's ASPP in its MobileNetV2 form: the mean of the picture beside each place, projected together."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.conv_pool = SameConv(channels_in, ASPP_CHANNELS, activation="relu")
        self.conv_aspp = SameConv(channels_in, ASPP_CHANNELS, activation="relu")
        self.conv_projection = SameConv(2 * ASPP_CHANNELS, ASPP_CHANNELS, activation="relu")

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, 256, h, w)."""
        pooled = self.conv_pool(features.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        return cast(Tensor, self.conv_projection(torch.cat((pooled, self.conv_aspp(features)), dim=1)))


class DeepLabBackbone(nn.Module):
    """A backbone of inverted residual layers: maps of strides 4, 8 and 16, the last one after the pooling head."""

    table: ClassVar[ResidualTable]

    def __init__(self) -> None:
        super().__init__()
        rows = self.table.rows
        self.channels: tuple[int, ...] = (
            rows[self.table.stride_4_row].channels,
            rows[self.table.stride_8_row].channels,
            ASPP_CHANNELS,
        )
        # One name for both networks, which is the public one of MobileNetV2.
        self.mobilenet_v2 = InvertedResidualNet(self.table)
        self.segmentation_head = PoolingHead(rows[-1].channels)
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
            (B, 24, H / 4, W / 4), (B, C, H / 8, W / 8) and (B, 256, H / 16, W / 16); see `channels`.
        """
        fine, middle, coarse = self.mobilenet_v2(frames * self.scale + self.shift)
        return fine, middle, self.segmentation_head(coarse)


class MobileNetDeepLab(DeepLabBackbone):
    """DeepLabv3 over MobileNetV2."""

    table = MOBILENET_V2


class EfficientNetLiteDeepLab(DeepLabBackbone):
    """DeepLabv3's pooling head over EfficientNet-Lite0. There are public weights for the layers, none for the head."""

    table = EFFICIENTNET_LITE0
