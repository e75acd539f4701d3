"""`python -m support.model.state_names VARIANT`: write the pinned names and shapes of a new variant's weights."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from model.network.avesformer import AVESFormer
from model.network.variants import variant

STATE_NAMES = Path(__file__).parents[2] / "assets" / "state_names"


def state_lines(name: str) -> list[str]:
    """Return a line for each tensor of a variant, `name shape`, such as `fuse.weight 256x512x1x1`."""
    with torch.device("meta"):
        state = AVESFormer(variant(name)).state_dict()
    return [f"{key} {'x'.join(map(str, value.shape)) or 'scalar'}" for key, value in state.items()]


if __name__ == "__main__":
    chosen = sys.argv[1]
    (STATE_NAMES / f"{chosen}.txt").write_text("\n".join(state_lines(chosen)) + "\n", encoding="utf-8")
