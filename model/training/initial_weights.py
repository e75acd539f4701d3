"""Initialise a network from one of our checkpoints, from public weights, or from both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.network.avesformer import AVESFormer
from model.network.checkpoint import load_checkpoint
from model.public_weights.load import load_public_weights
from model.training.config import TrainingConfig

LAST_WEIGHT, LAST_BIAS = "head.logits.weight", "head.logits.bias"  # the same names in both heads


def load_initial_weights(model: AVESFormer, config: TrainingConfig) -> dict[str, Any]:
    """Load weights in place: first the checkpoint `config.init`, then public weights.

    The checkpoint may have other labels: weights whose shape differs keep their random initialisation. The exception
    is the last layer of a binary checkpoint in a semantic run. Each label starts with the logits of `sounding`, and the
    probabilities of all labels sum to that of `sounding`, so the run starts with correct masks and learns the labels.

    Returns:
        Descriptions of the loaded weights for plans and logs; empty if the configuration names none.

    Raises:
        ValueError: a file cannot be read or belongs to another network.
    """
    taken: dict[str, Any] = {}
    if config.init:
        taken["init"] = _load_checkpoint(model, config)
    if config.backbone_weights or config.audio_weights:
        reports = load_public_weights(
            model, backbone=config.backbone_weights or None, audio=config.audio_weights or None
        )
        taken |= {name: {"layout": report.layout, "tensors": report.num_tensors} for name, report in reports.items()}
    return taken


def _load_checkpoint(model: AVESFormer, config: TrainingConfig) -> dict[str, Any]:
    checkpoint = load_checkpoint(Path(config.init))
    state, own = dict(checkpoint.state), model.state_dict()
    if model.config.is_semantic and not checkpoint.config.is_semantic and LAST_BIAS in state:
        num_labels = len(model.config.labels) - 1
        state |= {name: _spread(state[name], num_labels) for name in (LAST_WEIGHT, LAST_BIAS)}
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ValueError(f"init: nothing in {Path(config.init).name} fits the variant {config.variant}")
    model.load_state_dict(fitting, strict=False)
    return {"tensors": len(fitting), "drawn": sorted(set(own) - set(fitting))}


def _spread(value: Tensor, num_labels: int) -> Tensor:
    """Convert the last layer's weight or bias (r * r, …) of one logit to that of a background (0) and equal labels.

    With the bias lowered by ln K, K equal labels and a background of 0 have together the probability of the one logit.
    """
    shared = value - math.log(num_labels) if value.ndim == 1 else value
    return torch.cat((torch.zeros_like(value), shared.repeat(num_labels, *[1] * (value.ndim - 1))))
