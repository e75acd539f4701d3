"""Parameter groups, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

from model.training.config import RateSchedule, TrainingConfig

FINAL_RATE_SHARE = 0.01  # the cosine ends at this share of the peak learning rate
POLY_POWER = 0.9  # COMBO's schedule


def rate_share(schedule: RateSchedule, progress: float) -> float:
    """Return the learning rate at a point of the run as a share of the peak."""
    if schedule == "constant":
        return 1.0
    if schedule == "poly":
        return float((1 - progress) ** POLY_POWER)
    return FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(module: nn.Module, config: TrainingConfig) -> Iterator[dict[str, Any]]:
    """Return parameter groups with and without weight decay, and separate ones for encoders whose rates differ."""
    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    is_matrix = {name: value.ndim >= 2 and not name.endswith("prompts") for name, value in named}
    rates = {name: _rate(name, config) for name, _ in named}
    for rate in sorted(set(rates.values()), reverse=True):
        for matrix in (True, False):
            values = [value for name, value in named if is_matrix[name] is matrix and rates[name] == rate]
            if values:
                decay = config.weight_decay if matrix else 0.0
                yield {"params": values, "weight_decay": decay, "rate": rate}


def _rate(name: str, config: TrainingConfig) -> float:
    if name.startswith("model.backbone."):
        return config.backbone_rate
    return config.audio_rate if name.startswith("model.audio.") else 1.0
