"""ResNet as a backbone (He et al., 2015): bottleneck blocks as in torchvision's ResNet-50, or basic ones.

Parameter names are those of transformers' `ResNetBackbone`, so published weights and older checkpoints fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

LayerType = Literal["basic", "bottleneck"]

# Ratio of a bottleneck's output channels to those of its 3x3 convolution.
BOTTLENECK_REDUCTION = 4


class ConvBatchNorm(nn.Module):
    """Convolution without bias, batch norm and optionally a ReLU.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        kernel: side of the kernel, padded to keep the size at stride 1.
        stride: of the convolution.
        has_relu: end with a ReLU.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1, has_relu: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(channels_out)
        self.has_relu = has_relu

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        features = self.normalization(self.convolution(features))
        return F.relu_(features) if self.has_relu else features


class ResidualLayer(nn.Module):
    """A residual block: two 3x3 convolutions (`basic`), or 1x1, 3x3 and 1x1 (`bottleneck`), plus the shortcut.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        stride: of the first 3x3 convolution and of the shortcut.
        kind: which block.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, kind: LayerType) -> None:
        super().__init__()
        is_same = channels_in == channels_out and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity()
            if is_same
            else ConvBatchNorm(channels_in, channels_out, kernel=1, stride=stride, has_relu=False)
        )
        if kind == "basic":
            self.layer = nn.Sequential(
                ConvBatchNorm(channels_in, channels_out, stride=stride),
                ConvBatchNorm(channels_out, channels_out, has_relu=False),
            )
        else:
            inner = channels_out // BOTTLENECK_REDUCTION
            self.layer = nn.Sequential(
                ConvBatchNorm(channels_in, inner, kernel=1),
                ConvBatchNorm(inner, inner, stride=stride),
                ConvBatchNorm(inner, channels_out, kernel=1, has_relu=False),
            )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        return F.relu_(self.layer(features) + self.shortcut(features))


class Stem(nn.Module):
    """7x7 convolution of stride 2 and a maximum pool of stride 2: (B, 3, H, W) to (B, C, H / 4, W / 4)."""

    def __init__(self, channels_out: int) -> None:
        super().__init__()
        self.embedder = ConvBatchNorm(3, channels_out, kernel=7, stride=2)
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Shapes as in the class."""
        features: Tensor = self.pooler(self.embedder(frames))
        return features


class Stage(nn.Module):
    """Residual blocks of equal width; the first one changes width and size.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        depth: number of blocks.
        stride: of the first block.
        kind: of all blocks.
    """

    def __init__(self, channels_in: int, channels_out: int, *, depth: int, stride: int, kind: LayerType) -> None:
        super().__init__()
        first = ResidualLayer(channels_in, channels_out, stride=stride, kind=kind)
        rest = (ResidualLayer(channels_out, channels_out, stride=1, kind=kind) for _ in range(depth - 1))
        self.layers = nn.Sequential(first, *rest)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        features = self.layers(features)
        return features


class Encoder(nn.Module):
    """The four stages. Holds them under the name that public weights use."""

    def __init__(self, channels: Sequence[int], depths: Sequence[int], *, kind: LayerType) -> None:
        super().__init__()
        strides = (1, *(2 for _ in depths[1:]))
        pairs = zip(pairwise(channels), depths, strides, strict=True)
        self.stages = nn.ModuleList(
            Stage(before, after, depth=depth, stride=stride, kind=kind) for (before, after), depth, stride in pairs
        )


class ResNet(nn.Module):
    """The pyramid of a ResNet. The defaults are ResNet-50.

    Args:
        embedding_size: channels of the stem.
        hidden_sizes: channels of the four stages.
        depths: blocks of the four stages.
        layer_type: `basic` or `bottleneck`.

    Raises:
        ValueError: an unknown layer type, or other than four stages.
    """

    def __init__(
        self,
        *,
        embedding_size: int = 64,
        hidden_sizes: Sequence[int] = (256, 512, 1024, 2048),
        depths: Sequence[int] = (3, 4, 6, 3),
        layer_type: LayerType = "bottleneck",
    ) -> None:
        super().__init__()
        if layer_type not in ("basic", "bottleneck"):
            raise ValueError(f"layer_type: got {layer_type!r}, expected 'basic' or 'bottleneck'")
        if len(hidden_sizes) != 4 or len(depths) != 4:
            raise ValueError(f"hidden_sizes, depths: got {hidden_sizes}, {depths}, expected four numbers each")
        self.channels = tuple(hidden_sizes)
        self.embedder = Stem(embedding_size)
        self.encoder = Encoder((embedding_size, *hidden_sizes), depths, kind=layer_type)
        self.apply(_initialise)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Extract the pyramid.

        Args:
            frames: (B, 3, H, W) normalised.

        Returns:
            Four maps (B, C_i, H / s_i, W / s_i) for s = 4, 8, 16, 32, rounded up.
        """
        features = self.embedder(frames)
        pyramid = []
        for stage in self.encoder.stages:
            features = stage(features)
            pyramid.append(features)
        return tuple(pyramid)


def _initialise(module: nn.Module) -> None:
    """He initialisation over the outputs, as in torchvision. Batch norms start as the identity by themselves."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
