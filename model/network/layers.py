"""Small layers shared by the boxes of the figure: attention, feed-forward, convolution blocks, positions."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import ConvActivation, NormKind

# Temperature of the sine positions (DETR; the value of "Attention is all you need").
POSITION_TEMPERATURE = 10_000.0
# Groups of a group norm, as in its paper and in the paper's neighbours.
NUM_GROUPS = 32


class Attention(nn.Module):
    """Multi-head attention over scaled dot products.

    Args:
        width: D, a multiple of `num_heads`.
        num_heads: parallel heads.
    """

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend.

        Args:
            query: (B, L, D).
            key: (B, Q, D).
            value: (B, Q, D).

        Returns:
            (B, L, D).
        """
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        # The backward pass of the fused kernel is several times slower on CPUs than that of plain products.
        is_plain = torch.is_grad_enabled() and query.device.type == "cpu"
        mixed = _plain_attention(q, k, v) if is_plain else F.scaled_dot_product_attention(q, k, v)
        # (B, heads, L, D / heads)
        return cast(Tensor, self.out(mixed.transpose(1, 2).flatten(2)))  # (B, L, D)

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """The attention weights, for entropy measurements.

        Args:
            query: (B, L, D).
            key: (B, Q, D).

        Returns:
            (B, heads, L, Q), rows summing to 1.
        """
        q, k = self._split(self.query(query)), self._split(self.key(key))
        return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of three (B, heads, length, d)."""
    return torch.softmax((query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1), dim=-1) @ value


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU between: (B, L, D) to (B, L, D)."""

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class ResidualConv(nn.Module):
    """Residual block of two 3x3 convolutions: conv, norm, ReLU, conv, norm, added to the input.

    Args:
        width: channels in and out.
        norm: kind of norm.
    """

    def __init__(self, width: int, *, norm: NormKind = "batch") -> None:
        super().__init__()
        self.first = ConvNorm(width, width, kernel=3, norm=norm)
        self.second = ConvNorm(width, width, kernel=3, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        return F.relu(features + self.second(F.relu(self.first(features))))


class DepthwiseConv(nn.Module):
    """Residual block of a depthwise 7x7 convolution and a pointwise two-layer network.

    Args:
        width: channels in and out.
        norm: kind of norm.
    """

    def __init__(self, width: int, *, norm: NormKind = "batch") -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = make_norm(norm, width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        # In float32, since the backward pass of large depthwise kernels is three times slower in bfloat16 on CPUs.
        with torch.autocast(features.device.type, enabled=False):
            spatial = self.spatial(features.to(self.spatial.weight.dtype))
        mixed = F.relu(self.expand(self.norm(spatial)))
        return cast(Tensor, features + self.project(mixed))


class ConvNorm(nn.Module):
    """Convolution and norm, without activation.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        kernel: its side, odd.
        stride: of the convolution.
        norm: `batch` (in eval mode it costs nothing, a sample never sees its neighbours, and on a CPU it trains
            faster) or `group` (the paper's neighbours; the same in training and use, whatever the batch).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int,
        stride: int | tuple[int, int] = 1,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = make_norm(norm, channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride)."""
        return cast(Tensor, self.norm(self.conv(features)))


class SameConv(nn.Module):
    """Convolution with TensorFlow's `SAME` padding and a bias, then ReLU6, as in the public MobileNets.

    At stride 2 TensorFlow pads an even size by one pixel less before its start than after its end (3x3: 0 and 1), an
    odd size by the same number on both sides (3x3: 1).

    Args:
        channels_in: C_in.
        channels_out: C_out.
        kernel: its side, 1, 3 or 5.
        stride: 1 or 2; with 2 the kernel is 3 or 5.
        dilation: of the kernel's taps.
        is_depthwise: one filter per channel.
        activation: after the convolution.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        is_depthwise: bool = False,
        activation: ConvActivation = "relu6",
    ) -> None:
        super().__init__()
        self.activation = activation
        self.is_strided = stride == 2
        self.is_dilated = dilation == 2
        padding = 2 + (kernel - 2) // 2 if self.is_strided else dilation * (kernel // 2)
        groups = channels_in if is_depthwise else 1
        self.convolution = nn.Conv2d(
            channels_in, channels_out, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, h / stride, w / stride), rounded up."""
        if self.is_dilated and torch.is_grad_enabled() and features.device.type == "cpu":
            features = _dilated_by_parts(self.convolution, features)
        elif self.is_strided:
            features = self._strided(features)
        else:
            features = self.convolution(features)
        if self.activation == "relu6":
            return F.relu6(features) if self.is_strided else F.hardtanh_(features, 0.0, 6.0)
        return F.relu_(features) if self.activation == "relu" else features

    def _strided(self, features: Tensor) -> Tensor:
        rows, columns = features.shape[-2:]
        if rows % 2 or columns % 2:
            features = F.pad(features, (columns % 2, 0, rows % 2, 0))
        # 3x3: padding of two makes windows start at -2, 0, 2, …; TensorFlow's start at 0 where the size is even. 5x5:
        # three, and -1. Slicing the output is cheaper than padding the input on one side.
        return cast(Tensor, self.convolution(features)[..., 1:, 1:])


def _dilated_by_parts(convolution: nn.Conv2d, features: Tensor) -> Tensor:
    """The same as a convolution of dilation 2, by a plain one over the four maps of every second pixel.

    On CPUs the backward pass of a dilated depthwise convolution is fifteen times slower.

    Args:
        convolution: of an odd kernel, dilation 2, padding that keeps the size.
        features: (B, C, h, w), h and w even.

    Returns:
        (B, C_out, h, w).
    """
    batch, channels, height, width = features.shape
    places = features.permute(0, 2, 3, 1).view(batch, height // 2, 2, width // 2, 2, channels)
    parts = places.permute(0, 2, 4, 5, 1, 3).reshape(4 * batch, channels, height // 2, width // 2)
    parts = parts.contiguous(memory_format=torch.channels_last)
    padding = convolution.kernel_size[0] // 2
    done = F.conv2d(parts, convolution.weight, convolution.bias, padding=padding, groups=convolution.groups)
    places = done.permute(0, 2, 3, 1).view(batch, 2, 2, height // 2, width // 2, -1)
    whole = places.permute(0, 3, 1, 4, 2, 5).reshape(batch, height, width, -1)  # (B, h, w, C_out)
    return whole.permute(0, 3, 1, 2)


class LiftedConv(nn.Conv2d):
    """3x3 convolution of a bilinearly enlarged map, without ever making the enlarged map.

    Both steps are linear, so channels are mixed first, at the small size and for each of the nine taps; enlarging and
    shifting are then one product per axis with a fixed matrix. At 56x56 to 224x224, 128 to 32 channels, that is a third
    of the multiplications and an eighth of the memory; the result is the same up to rounding.

    Args:
        channels_in: C_in.
        channels_out: C_out.
        lift: how many times larger, 1 for a plain convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, *, lift: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.lift = lift

    def forward(self, input: Tensor) -> Tensor:
        """(B, C_in, h, w) to (B, C_out, lift h, lift w)."""
        if self.lift == 1:
            return super().forward(input)
        batch, channels_in, height, width = input.shape
        by_row = self.weight.permute(2, 3, 0, 1).reshape(3, -1, channels_in)  # (3, 3 C_out, C_in), row of taps first
        places = input.permute(0, 2, 3, 1)  # (B, h, w, C_in)
        taps = torch.cat([F.linear(places, weights) for weights in by_row], dim=1)  # (B, 3 h, w, 3 C_out)
        rows = _lift_matrix(height, self.lift, like=input).flatten(1)  # (H, 3 h)
        columns = _lift_matrix(width, self.lift, like=input).transpose(1, 2).flatten(1)  # (W, w 3)
        tall = (rows @ taps.flatten(2)).view(-1, 3 * width, self.out_channels)  # (B H, w 3, C_out)
        full = (columns @ tall + cast(Tensor, self.bias)).view(
            batch, -1, width * self.lift, self.out_channels
        )  # (B, H, W, C_out)
        return full.permute(0, 3, 1, 2)


def _lift_matrix(length: int, lift: int, *, like: Tensor) -> Tensor:
    """(lift length, 3, length): what each place of the larger axis sees of each smaller place by each of three taps."""
    each = torch.eye(length, device=like.device, dtype=like.dtype)[None]  # (1, length, length)
    larger = F.interpolate(each, scale_factor=float(lift), mode="linear", align_corners=False)[0].T
    padded = F.pad(larger, (0, 0, 1, 1))  # (lift length + 2, length), zeros beyond the ends as a convolution has them
    return torch.stack([padded[tap : tap + length * lift] for tap in range(3)], dim=1)


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """The norm of a kind over (B, C, h, w); group norm takes 32 groups, or as many as divide C evenly."""
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(math.gcd(NUM_GROUPS, channels), channels)


def sine_positions(height: int, width: int, *, channels: int) -> Tensor:
    """Two-dimensional sine positions, half of the channels per axis, for any grid size.

    Args:
        height: h of the grid.
        width: w of the grid.
        channels: D, a multiple of 4.

    Returns:
        (1, h * w, D) float32. Coordinates run over (0, 2 pi) whatever the grid, so that a model trained at one
        size reads another.
    """
    per_axis = channels // 2
    exponent = torch.arange(0, per_axis, 2, dtype=torch.float32) / per_axis
    scale = POSITION_TEMPERATURE**-exponent * 2 * math.pi * 8  # 8: the finest wave is an eighth of the frame

    def encode(length: int) -> Tensor:
        centre = (torch.arange(length, dtype=torch.float32) + 0.5) / length
        angle = centre[:, None] * scale  # (length, per_axis / 2)
        return torch.cat((angle.sin(), angle.cos()), dim=1)  # (length, per_axis)

    rows = encode(height)[:, None].expand(height, width, per_axis)
    columns = encode(width)[None].expand(height, width, per_axis)
    return torch.cat((rows, columns), dim=2).reshape(1, height * width, channels)
