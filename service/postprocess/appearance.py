"""Colours of objects as histograms."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.postprocess.silhouettes import Bools

Bins = NDArray[np.int64]
Histogram = NDArray[np.float32]

# Bins of CIELAB: few of lightness, which light changes most, more of the two colour axes (steps of 16 of 8 bits).
_LIGHTNESS_BINS, _COLOUR_BINS = 4, 16
NUM_BINS: Final = _LIGHTNESS_BINS * _COLOUR_BINS * _COLOUR_BINS
# Share of a histogram that is spread over its neighbours, so that a colour at the edge of a bin counts in both.
_SPREAD: Final = (0.25, 0.5, 0.25)
# A colour that an object has not shown counts as this share of its pixels.
_UNSEEN: Final = 1e-3


def colour_bins(picture: NDArray[np.uint8]) -> Bins:
    """Return the bin of each pixel, (h, w) in 0..NUM_BINS - 1, of an RGB picture (h, w, 3)."""
    lab = np.asarray(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2LAB)).astype(np.int64)
    lightness, first, second = lab[..., 0] >> 6, lab[..., 1] >> 4, lab[..., 2] >> 4
    return np.asarray((lightness * _COLOUR_BINS + first) * _COLOUR_BINS + second, np.int64)


def histogram(bins: Bins, inside: Bools) -> Histogram:
    """Return the smoothed shares (NUM_BINS,) of colours inside a mask (h, w) that is not empty."""
    counts = np.bincount(bins[inside], minlength=NUM_BINS).astype(np.float32)
    cube = counts.reshape(_LIGHTNESS_BINS, _COLOUR_BINS, _COLOUR_BINS)
    for axis in range(3):
        padded = np.pad(cube, [(1, 1) if each == axis else (0, 0) for each in range(3)], mode="edge")
        parts = [np.take(padded, range(at, at + cube.shape[axis]), axis=axis) for at in range(3)]
        cube = np.einsum("p...,p->...", np.stack(parts), np.array(_SPREAD, np.float32))
    flat = cube.reshape(-1)
    return np.asarray(flat / flat.sum(), np.float32)


def similarity(one: Histogram, other: Histogram) -> float:
    """Return the Bhattacharyya coefficient of two histograms, 0 (no colour in common) to 1 (equal)."""
    return float(np.sqrt(one * other).sum())


def surprise(bins: Bins, colours: Histogram) -> NDArray[np.float32]:
    """Return how unlikely each pixel's colour is for an object, (h, w): minus the logarithm of its share."""
    return np.asarray(-np.log(colours + np.float32(_UNSEEN))[bins], np.float32)
