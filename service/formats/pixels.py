"""Masks as pixels, for formats that are not run lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.domain.result import Rle


def decode(rle: Rle) -> NDArray[np.uint8]:
    """Return the pixels of run lengths as uint8 (H, W), 1 inside."""
    pixels: NDArray[np.uint8] = coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")})
    return pixels
