"""Masks as numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.domain.result import FrameMasks, Mask

Pixels = NDArray[np.bool_]


def mask_pixels(mask: Mask) -> Pixels:
    """Return the pixels of a mask as bool (height, width)."""
    rle = mask.segmentation
    pixels: Pixels = coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")}).astype(bool)
    return pixels


def frame_pixels(frame: FrameMasks, *, height: int, width: int) -> Pixels:
    """Return all masks of a frame as bool (number of masks, height, width); the size is for a frame without any."""
    if not frame.masks:
        return np.zeros((0, height, width), bool)
    return np.stack([mask_pixels(mask) for mask in frame.masks])


def row_runs(pixels: Pixels) -> list[int]:
    """Return run lengths in row order, zeros first; a sum of height * width."""
    flat = pixels.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs
