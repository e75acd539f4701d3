"""Prompt query generator (PQG): several audio-conditioned tokens out of one audio embedding.

With a single key the softmax of a cross-attention is identically 1, so every pixel receives the same vector (the
paper's "attention dissipation"). The generator inserts the audio among learnable prompts so that
there are several keys. The paper names the idea; the four modes are our readings of it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from model.network.config import ModelConfig
from model.network.layers import Attention, FeedForward

# Hidden width of the `wide` audio projection, as in the authors' earlier COMBO (128-4096-4096-256).
WIDE_MLP_HIDDEN = 4096
# Spread of freshly drawn prompts, DETR-like: distinct, yet small beside a normalised token.
PROMPT_STD = 0.5


class PromptQueryGenerator(nn.Module):
    """Audio embedding to prompt queries.

    Args:
        config: uses `prompt`, `width`, `audio.embedding_dim` and the decoder's heads and feed-forward width.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mode = config.prompt.mode
        width = config.width
        self.project = _projection(config)
        self.norm = nn.LayerNorm(width)
        has_prompts = self.mode != "none"
        self.prompts = nn.Parameter(torch.randn(config.prompt.num_prompts, width) * PROMPT_STD) if has_prompts else None
        num_layers = config.prompt.num_mix_layers if self.mode == "concat_mix" else 0
        self.mix = nn.ModuleList(
            MixLayer(width, num_heads=config.decoder.num_heads, hidden=config.decoder.ffn_width)
            for _ in range(num_layers)
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Generate the queries.

        Args:
            embedding: (B, embedding_dim).

        Returns:
            (B, Q, D): Q = 1 for `none`, N for `add`, N + 1 for `concat` and `concat_mix` (audio first).
        """
        audio = self.norm(self.project(embedding))[:, None]  # (B, 1, D)
        if self.prompts is None:
            return cast(Tensor, audio)
        prompts = self.prompts.expand(audio.shape[0], -1, -1)  # (B, N, D)
        if self.mode == "add":
            return cast(Tensor, prompts + audio)
        queries = torch.cat((audio, prompts), dim=1)  # (B, N + 1, D)
        for layer in self.mix:
            queries = layer(queries)
        return queries


class MixLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over the queries: (B, Q, D) to (B, Q, D)."""

    def __init__(self, width: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads=num_heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, hidden=hidden)

    def forward(self, queries: Tensor) -> Tensor:
        """Mix audio and prompts."""
        normed = self.attention_norm(queries)
        queries = queries + self.attention(normed, normed, normed)
        return cast(Tensor, queries + self.feed(self.feed_norm(queries)))


def _projection(config: ModelConfig) -> nn.Module:
    embedding_dim, width = config.audio.embedding_dim, config.width
    if config.prompt.audio_mlp == "linear":
        return nn.Linear(embedding_dim, width)
    return nn.Sequential(
        nn.Linear(embedding_dim, WIDE_MLP_HIDDEN),
        nn.ReLU(),
        nn.Linear(WIDE_MLP_HIDDEN, WIDE_MLP_HIDDEN),
        nn.ReLU(),
        nn.Linear(WIDE_MLP_HIDDEN, width),
    )
