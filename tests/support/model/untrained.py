"""A checkpoint of `tiny` with random weights: the real network where what it learned does not matter."""

from __future__ import annotations

from pathlib import Path


def save_untrained(folder: Path, *, seed: int = 0) -> Path:
    """Write it; the same seed gives the same file."""
    import torch

    from model.network.avesformer import AVESFormer
    from model.network.checkpoint import save_checkpoint
    from model.network.variants import variant

    torch.manual_seed(seed)
    config = variant("tiny")
    path = folder / "untrained.safetensors"
    save_checkpoint(path, config=config, state=AVESFormer(config).state_dict(), world_version=None, training={})
    return path
