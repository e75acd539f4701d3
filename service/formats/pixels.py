"""Masks as pixels and back, for formats that are not run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.domain.result import Rle


def decode(rle: Rle) -> NDArray[np.uint8]:
    """Return the pixels of run lengths as uint8 (H, W), 1 inside."""
    pixels: NDArray[np.uint8] = coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")})
    return pixels


def run_lengths(rle: Rle) -> list[int]:
    """Return COCO's uncompressed counts: column-major, zeros first."""
    flat = decode(rle).reshape(-1, order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *counts] if flat.size and flat[0] else counts


def segmentation(rle: Rle, *, is_compressed: bool) -> dict[str, Any]:
    """Return COCO's `segmentation` object; `counts` is a string or a list of run lengths."""
    return {"size": list(rle.size), "counts": rle.counts if is_compressed else run_lengths(rle)}
