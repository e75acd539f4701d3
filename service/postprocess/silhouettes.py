"""Masks as shapes: components, distances, moves. Masks are bool (h, w)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Places = NDArray[np.int32]


def components(inside: Bools, *, least_area: float, most: int) -> Places:
    """Return the numbers (h, w) of the connected components (8 neighbours) of a mask that is not empty.

    The largest has the number 1; 0 is outside, or in a component that is left out.

    Args:
        inside: the mask.
        least_area: smaller ones are left out, but for the largest.
        most: number of components at most.
    """
    count, places, statistics, _ = cv2.connectedComponentsWithStats(inside.view(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    order = sorted(range(count - 1), key=lambda number: -int(areas[number]))
    kept = [number for number in order if areas[number] >= least_area][:most] or order[:1]
    numbers = np.zeros(count, np.int32)
    numbers[[number + 1 for number in kept]] = np.arange(1, len(kept) + 1)
    return np.asarray(numbers[places], np.int32)


def distances(mask: Bools) -> NDArray[np.float32]:
    """Return the distance (h, w) of each pixel from a mask that is not empty, in pixels; 0 inside."""
    return np.asarray(cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 3), np.float32)


def share_out(found: dict[int, Bools], inside: Bools) -> None:
    """Give every pixel of a mask that nobody has to the nearest object; changes `found`."""
    taken = np.zeros(inside.shape, bool)
    for mask in found.values():
        taken |= mask
    if not (inside & ~taken).any():
        return
    nearest = nearest_of(list(found.values()))
    for place, key in enumerate(found):
        found[key] = found[key] | (inside & ~taken & (nearest == place))


def nearest_of(masks: list[Bools]) -> Places:
    """Return the place in the list of the mask nearest to each pixel, (h, w); the first where two are as near."""
    if len(masks) == 1:
        return np.zeros(masks[0].shape, np.int32)
    return np.asarray(np.argmin(np.stack([distances(mask) for mask in masks]), axis=0), np.int32)


def moved(mask: Bools, offset: tuple[float, float]) -> Bools:
    """Return the mask moved by whole pixels; what leaves the picture is lost."""
    x, y = round(offset[0]), round(offset[1])
    if not x and not y:
        return mask
    height, width = mask.shape
    result = np.zeros_like(mask)
    if abs(x) < width and abs(y) < height:
        result[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = mask[
            max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)
        ]
    return result


def centre(mask: Bools) -> tuple[float, float]:
    """Return the mean x and y of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())
