"""Pyramid Vision Transformer v2 as a backbone (Wang et al., 2022).

Parameter names are those of transformers' `PvtV2Backbone`, so published weights and older checkpoints fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Kernel and stride of the overlapping patch embedding of each stage, and epsilon of all layer norms (publication).
PATCH_SIZES = (7, 3, 3, 3)
PATCH_STRIDES = (4, 2, 2, 2)
LAYER_NORM_EPSILON = 1e-6
# Standard deviation of untrained linear weights (publication).
LINEAR_SPREAD = 0.02


@dataclass(frozen=True)
class StageSize:
    """Sizes of one stage.

    Attributes:
        width: D, channels.
        num_heads: of the attention.
        hidden_width: of the feed-forward layers.
        reduction: side of the squares that are merged into one key and value; 1 merges none.
    """

    width: int
    num_heads: int
    hidden_width: int
    reduction: int


class PatchEmbedding(nn.Module):
    """Overlapping patches as tokens: a strided convolution and a layer norm."""

    def __init__(self, channels_in: int, width: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, width, kernel, stride=stride, padding=kernel // 2)
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)

    def forward(self, features: Tensor) -> tuple[Tensor, int, int]:
        """(B, C, H, W) to tokens (B, h*w, D) and the grid's h and w."""
        features = self.proj(features)
        height, width = features.shape[-2:]
        return self.layer_norm(features.flatten(2).transpose(1, 2)), height, width


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values come from a smaller grid."""

    def __init__(self, size: StageSize) -> None:
        super().__init__()
        if size.width % size.num_heads:
            raise ValueError(f"hidden_sizes: got {size.width}, expected a multiple of {size.num_heads} heads")
        self.num_heads = size.num_heads
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width)
        self.value = nn.Linear(size.width, size.width)
        self.proj = nn.Linear(size.width, size.width)
        self.reduction = size.reduction
        if size.reduction > 1:
            self.spatial_reduction = nn.Conv2d(size.width, size.width, size.reduction, stride=size.reduction)
            self.layer_norm = nn.LayerNorm(size.width, eps=LAYER_NORM_EPSILON)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B, L, D) to (B, L, D), L = height * width."""
        source = self._reduce(tokens, height, width)  # (B, L / reduction^2, D)
        query, key, value = (
            self._split(project(given))
            for project, given in ((self.query, tokens), (self.key, source), (self.value, source))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B, heads, L, D / heads)
        answer: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return answer

    def _reduce(self, tokens: Tensor, height: int, width: int) -> Tensor:
        if self.reduction == 1:
            return tokens
        grid = self.spatial_reduction(_to_grid(tokens, height, width))
        reduced: Tensor = self.layer_norm(grid.flatten(2).transpose(1, 2))
        return reduced

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, L, D) to (B, heads, L, D / heads)."""
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class DepthwiseGrid(nn.Module):
    """3x3 depthwise convolution over the tokens' grid: (B, L, C) to (B, L, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Shapes as in the class."""
        grid: Tensor = self.dwconv(_to_grid(tokens, height, width))
        return grid.flatten(2).transpose(1, 2)


class ConvFeedForward(nn.Module):
    """Linear layer, depthwise convolution, GELU, linear layer: (B, L, D) to (B, L, D)."""

    def __init__(self, size: StageSize) -> None:
        super().__init__()
        self.dense1 = nn.Linear(size.width, size.hidden_width)
        self.dwconv = DepthwiseGrid(size.hidden_width)
        self.dense2 = nn.Linear(size.hidden_width, size.width)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Shapes as in the class."""
        mixed: Tensor = self.dense2(F.gelu(self.dwconv(self.dense1(tokens), height, width)))
        return mixed


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        size: of the stage.
        drop_rate: probability, in training, that a sample skips a branch (stochastic depth).
    """

    def __init__(self, size: StageSize, *, drop_rate: float) -> None:
        super().__init__()
        self.layer_norm_1 = nn.LayerNorm(size.width, eps=LAYER_NORM_EPSILON)
        self.attention = ReducedAttention(size)
        self.layer_norm_2 = nn.LayerNorm(size.width, eps=LAYER_NORM_EPSILON)
        self.mlp = ConvFeedForward(size)
        self.drop_rate = drop_rate

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        tokens = tokens + self._drop(self.attention(self.layer_norm_1(tokens), height, width))
        return tokens + self._drop(self.mlp(self.layer_norm_2(tokens), height, width))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or not self.drop_rate:
            return branch
        keep = 1 - self.drop_rate
        kept = torch.rand(len(branch), 1, 1, dtype=branch.dtype, device=branch.device) < keep
        return branch / keep * kept


class Stage(nn.Module):
    """Patch embedding, blocks and a last layer norm: (B, C, H, W) to (B, D, h, w)."""

    def __init__(
        self, channels_in: int, size: StageSize, *, kernel: int, stride: int, drop_rates: Sequence[float]
    ) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(channels_in, size.width, kernel=kernel, stride=stride)
        self.blocks = nn.ModuleList(Block(size, drop_rate=rate) for rate in drop_rates)
        self.layer_norm = nn.LayerNorm(size.width, eps=LAYER_NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        """Shapes as in the class."""
        tokens, height, width = self.patch_embedding(features)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return _to_grid(self.layer_norm(tokens), height, width).contiguous()


class Encoder(nn.Module):
    """The four stages. Holds them under the name that public weights use."""

    def __init__(self, sizes: Sequence[StageSize], depths: Sequence[int], *, drop_path_rate: float) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        ends = [sum(depths[:number]) for number in range(len(depths) + 1)]
        channels = pairwise((3, *(size.width for size in sizes)))
        self.layers = nn.ModuleList(
            Stage(before, size, kernel=kernel, stride=stride, drop_rates=rates[start:end])
            for (before, _), size, kernel, stride, (start, end) in zip(
                channels, sizes, PATCH_SIZES, PATCH_STRIDES, pairwise(ends), strict=True
            )
        )


class PvtV2(nn.Module):
    """The pyramid of a PVTv2. The defaults are PVTv2-b0.

    Args:
        hidden_sizes: D of the four stages.
        depths: blocks of the four stages.
        num_attention_heads: of the four stages.
        mlp_ratios: width of the feed-forward layers over D.
        sr_ratios: side of the squares that share a key and a value.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.

    Raises:
        ValueError: other than four stages, or a width that its heads do not divide.
    """

    def __init__(
        self,
        *,
        hidden_sizes: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_attention_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        columns = (hidden_sizes, num_attention_heads, mlp_ratios, sr_ratios)
        if any(len(column) != len(PATCH_SIZES) for column in (*columns, depths)):
            raise ValueError(f"stages: got {(*columns, depths)}, expected four numbers each")
        sizes = [StageSize(d, heads, int(d * ratio), merged) for d, heads, ratio, merged in zip(*columns, strict=True)]
        self.channels = tuple(hidden_sizes)
        self.encoder = Encoder(sizes, depths, drop_path_rate=drop_path_rate)
        self.apply(_initialise)

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Extract the pyramid.

        Args:
            frames: (B, 3, H, W) normalised.

        Returns:
            Four maps (B, D_i, H / s_i, W / s_i) for s = 4, 8, 16, 32, rounded up.
        """
        features = frames
        pyramid = []
        for stage in self.encoder.layers:
            features = stage(features)
            pyramid.append(features)
        return tuple(pyramid)


def _to_grid(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, h*w, C) to (B, C, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def _initialise(module: nn.Module) -> None:
    """Initialisation of the publication: truncated normal for linear layers, He over the outputs of convolutions."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=LINEAR_SPREAD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
