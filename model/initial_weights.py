"""What a network starts from: a checkpoint of ours, public weights, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.avesformer import AVESFormer
from model.checkpoint import load_checkpoint
from model.training_config import TrainingConfig
from model.weights_import import load_public_weights


def load_initial_weights(model: AVESFormer, config: TrainingConfig) -> dict[str, Any]:
    """Put weights in, in place: first the checkpoint of `config.init`, then public ones.

    A checkpoint may be of other labels (a binary one starts a semantic run): weights of other shapes stay as drawn.

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
    state = load_checkpoint(Path(config.init)).state
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ValueError(f"init: nothing in {Path(config.init).name} fits the variant {config.variant}")
    model.load_state_dict(fitting, strict=False)
    return {"tensors": len(fitting), "drawn": sorted(set(own) - set(fitting))}
