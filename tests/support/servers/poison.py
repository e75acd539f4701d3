"""The one colour that ends a `support.servers.fake_worker` in the middle of its batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POISON_COLOUR = (254, 1, 253)
# What coding and decoding may change of a colour.
_TOLERANCE = 24


def is_poisonous(frames: NDArray[np.uint8]) -> bool:
    """Whether the first pixel of one of the frames uint8 (B, H, W, 3) has the colour."""
    distance = np.abs(frames[:, 0, 0].astype(int) - POISON_COLOUR)
    return bool((distance <= _TOLERANCE).all(axis=1).any())
