"""What a network starts from: a checkpoint of ours, public weights, or nothing."""

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
    """Put weights in, in place: first the checkpoint of `config.init`, then public ones.

    A checkpoint may be of other labels: weights of other shapes stay as drawn. Only a binary one that starts a semantic
    run keeps its last layer, too: each label begins with the logits of `sounding`, and all of them together are as
    likely as it was, so that what sounds is known from the first step and only its name is to be learned.

    Returns:
        What was taken from where, for plans and logs; empty where nothing was asked for.

    Raises:
        ValueError: a file that cannot be read, or of another network.
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
    """The last layer's weight or bias (r * r, …) for one logit to that for a background of 0 and labels that share it.

    With the bias lowered by ln K, K equal labels against a background of 0 have the probability of the one logit.
    """
    shared = value - math.log(num_labels) if value.ndim == 1 else value
    return torch.cat((torch.zeros_like(value), shared.repeat(num_labels, *[1] * (value.ndim - 1))))
