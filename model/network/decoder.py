"""ELF, the early-focus decoder: convolution blocks first, transformer blocks after them, at one resolution.

The paper replaces attention by convolution in the early stages, where its attention maps were local anyway. Numbers
and kinds of blocks, positions and norms are our reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.network.config import ModelConfig
from model.network.layers import Attention, DepthwiseConv, FeedForward, ResidualConv, sine_positions


@dataclass(frozen=True)
class AttentionStatistics:
    """Of one block's cross-attention, means over batch and heads. A single key gives 0 for both: dissipation.

    Attributes:
        entropy: of a pixel's weights over the Q keys, in nats, 0 to ln Q.
        row_distance: Euclidean distance between the weights of two different pixels, 0 to sqrt(2).
    """

    entropy: float
    row_distance: float


class EarlyFocusDecoder(nn.Module):
    """The stack of blocks.

    Args:
        config: uses `decoder` and `width`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        block = {"residual": ResidualConv, "depthwise": DepthwiseConv}[config.decoder.conv_kind]
        self.conv_blocks = nn.ModuleList(
            block(config.width, norm=config.norm) for _ in range(config.decoder.num_conv_blocks)
        )
        self.transformer_blocks = nn.ModuleList(
            FusionBlock(config.width, num_heads=config.decoder.num_heads, hidden=config.decoder.ffn_width)
            for _ in range(config.decoder.num_transformer_blocks)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Tensor, prompts: Tensor) -> Tensor:
        """Fuse what is seen with what is heard.

        Args:
            features: (B, D, h, w) visual.
            prompts: (B, Q, D) audio-conditioned queries.

        Returns:
            (B, D, h, w) fused.
        """
        return self.fuse(self.focus(features), prompts)

    def focus(self, features: Tensor) -> Tensor:
        """The convolution blocks, which hear nothing: (B, D, h, w) to (B, D, h, w)."""
        for block in self.conv_blocks:
            features = block(features)
        return features

    def fuse(self, features: Tensor, prompts: Tensor) -> Tensor:
        """The transformer blocks: (B, D, h, w) and (B, Q, D) to (B, D, h, w)."""
        batch, width, height, columns = features.shape
        tokens, positions = _tokens(features)
        for block in self.transformer_blocks:
            tokens = block(tokens, prompts, positions)
        tokens = self.norm(tokens)
        fused: Tensor = tokens.transpose(1, 2).reshape(batch, width, height, columns)  # (B, D, h, w)
        return fused.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def attention_statistics(self, features: Tensor, prompts: Tensor) -> list[AttentionStatistics]:
        """How far the cross-attention of each transformer block is from dissipating.

        Args:
            features: (B, D, h, w) after `focus`.
            prompts: (B, Q, D).

        Returns:
            One entry per transformer block.
        """
        tokens, positions = _tokens(features)
        statistics = []
        for block in self.transformer_blocks:
            weights = cast(FusionBlock, block).cross_weights(tokens, prompts, positions)  # (B, heads, L, Q)
            entropy = -(weights * weights.clamp(min=torch.finfo(weights.dtype).tiny).log()).sum(dim=-1).mean()
            length = weights.shape[-2]
            pairs = torch.cdist(weights, weights).sum(dim=(-2, -1)) / max(1, length * (length - 1))  # (B, heads)
            statistics.append(AttentionStatistics(entropy=float(entropy), row_distance=float(pairs.mean())))
            tokens = block(tokens, prompts, positions)
        return statistics


def _tokens(features: Tensor) -> tuple[Tensor, Tensor]:
    """Feature map (B, D, h, w) as tokens (B, L, D), and their positions (1, L, D)."""
    _, width, height, columns = features.shape
    positions = sine_positions(height, columns, channels=width).to(features)  # (1, L, D)
    return features.flatten(2).transpose(1, 2), positions


class FusionBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the prompts, feed-forward.

    Args:
        width: D.
        num_heads: heads of both attentions.
        hidden: width inside the feed-forward.
    """

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, num_heads=num_heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, num_heads=num_heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, hidden=hidden)

    def forward(self, tokens: Tensor, prompts: Tensor, positions: Tensor) -> Tensor:
        """One block.

        Args:
            tokens: (B, L, D).
            prompts: (B, Q, D), keys and values of the cross-attention.
            positions: (1, L, D), added to queries and keys of the self-attention and to the cross-attention's queries.

        Returns:
            (B, L, D).
        """
        tokens = self._attend_to_self(tokens, positions)
        tokens = tokens + self.cross_attention(self.cross_norm(tokens) + positions, prompts, prompts)
        return cast(Tensor, tokens + self.feed(self.feed_norm(tokens)))

    def cross_weights(self, tokens: Tensor, prompts: Tensor, positions: Tensor) -> Tensor:
        """Weights (B, heads, L, Q) of the cross-attention in a call of `forward` with the same arguments."""
        tokens = self._attend_to_self(tokens, positions)
        return self.cross_attention.weights(self.cross_norm(tokens) + positions, prompts)

    def _attend_to_self(self, tokens: Tensor, positions: Tensor) -> Tensor:
        normed = self.self_norm(tokens)
        placed = normed + positions
        return cast(Tensor, tokens + self.self_attention(placed, placed, normed))
