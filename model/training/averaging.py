"""The mean of several checkpoints' weights ("model soup", Wortsman et al. 2022, arXiv 2203.05482).

Runs that start from the same weights stay close enough that their mean is often better than each of them. Means of
unrelated weights are useless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def average_checkpoints(parts: Sequence[tuple[Path, float]], out: Path) -> None:
    """Write the weighted mean of checkpoints. Its header names each part, its share and its training.

    Args:
        parts: two or more files or shipped names of the same network, each with its share, which is over 0; the shares
            are divided by their sum. Frame size and lag of the masks are the first one's.
        out: file to write.

    Raises:
        CheckpointError: a file cannot be read.
        ValueError: fewer than two parts, a share that is not over 0, or different networks, labels or worlds.
    """
    if len(parts) < 2:
        raise ValueError(f"got {len(parts)} checkpoint, expected two or more")
    if bad := [share for _, share in parts if not (share > 0 and math.isfinite(share))]:
        raise ValueError(f"got the share {bad[0]:g}, expected a number over 0")
    checkpoints = [load_checkpoint(path) for path, _ in parts]
    first = checkpoints[0]
    for (path, _), checkpoint in zip(parts, checkpoints, strict=True):
        if _network(checkpoint) != _network(first):
            raise ValueError(f"{path.name} has another network, other labels or another world than {parts[0][0].name}")
    total = sum(share for _, share in parts)
    shares = [share / total for _, share in parts]
    save_checkpoint(
        out,
        config=first.config,
        state={name: _mean(name, checkpoints, shares) for name in first.state},
        world_version=first.world_version,
        training={
            "average_of": [
                {"checkpoint": checkpoint.digest, "share": round(share, 4), "training": dict(checkpoint.training)}
                for checkpoint, share in zip(checkpoints, shares, strict=True)
            ]
        },
    )


def _network(checkpoint: Checkpoint) -> object:
    """Return what has to be equal: names of weights, world, and the configuration but for what no weight depends on."""
    config = replace(checkpoint.config, input_height=0, input_width=0, offset_lag_s=0.0)
    return config, checkpoint.world_version, set(checkpoint.state)


def _mean(name: str, checkpoints: Sequence[Checkpoint], shares: Sequence[float]) -> Tensor:
    """Return the mean of one tensor, in the first checkpoint's dtype. Counters are taken from the first one."""
    value = checkpoints[0].state[name]
    if not value.is_floating_point():
        return value
    weighted = [share * each.state[name].double() for each, share in zip(checkpoints, shares, strict=True)]
    return torch.stack(weighted).sum(dim=0).to(value.dtype)
