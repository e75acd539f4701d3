"""A small log-mel encoder that replaces VGGish (our own; the paper uses VGGish)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.config import AudioConfig
from model.network.layers import ConvNorm, ResidualConv

# Centre and half-range of log-mel values: silence is -4.6, a full-scale sine peaks at about 4.8.
LOG_MEL_CENTRE = -2.0
LOG_MEL_SCALE = 2.0
# Log-mel frames per time step after three halvings (8 x 10 ms) and mel bins left after four (64 / 16).
NUM_TIME_STEPS = 12
NUM_BANDS = 4


class SmallAudioEncoder(nn.Module):
    """Convolutions that keep twelve time steps of 80 ms, then two summaries of them.

    The sound at the *end* of the window decides the mask, so the embedding joins a mean over the whole window with a
    learned weighting of the steps that initially favours the last ones.

    Args:
        config: stage widths and embedding size.
    """

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        first, second, third, fourth = config.stage_widths
        self.stem = ConvNorm(1, first, kernel=3, stride=2)  # (48, 32)
        self.second = nn.Sequential(ConvNorm(first, second, kernel=3, stride=2), nn.ReLU(), ResidualConv(second))
        self.third = nn.Sequential(ConvNorm(second, third, kernel=3, stride=2), nn.ReLU(), ResidualConv(third))
        self.fourth = nn.Sequential(
            ConvNorm(third, fourth, kernel=3, stride=(1, 2)), nn.ReLU(), ResidualConv(fourth)
        )  # (12, 4)
        self.step = nn.Linear(fourth * NUM_BANDS, config.embedding_dim)
        end_bias = torch.linspace(-4.0, 2.0, NUM_TIME_STEPS)
        self.step_bias = nn.Parameter(end_bias)
        self.step_score = nn.Linear(config.embedding_dim, 1)
        self.out = nn.Linear(2 * config.embedding_dim, config.embedding_dim)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Embed.

        Args:
            log_mel: (B, 1, 96, 64).

        Returns:
            (B, embedding_dim).
        """
        features = F.relu(self.stem((log_mel - LOG_MEL_CENTRE) / LOG_MEL_SCALE))
        features = self.fourth(self.third(self.second(features)))  # (B, C, 12, 4)
        steps = F.relu(self.step(features.permute(0, 2, 1, 3).flatten(2)))  # (B, 12, embedding_dim)
        weights = torch.softmax(self.step_score(steps)[..., 0] + self.step_bias, dim=1)  # (B, 12)
        at_end = (steps * weights[..., None]).sum(dim=1)  # (B, embedding_dim)
        embedding: Tensor = self.out(torch.cat((at_end, steps.mean(dim=1)), dim=1))
        return embedding
