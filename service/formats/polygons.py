"""Polygons along the edges of pixels: a JSON document with `polygons` in place of `segmentation`.

Vertices are corners of pixels: the pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Filled by the even-odd
rule and sampled at the centres of pixels, the rings of a mask give exactly its pixels, holes included.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from service.codec.answer_json import encode_frame
from service.domain.result import FrameMasks
from service.formats.document import DocumentFormatter
from service.formats.pixels import decode

_Point = tuple[int, int]


class PolygonsFormatter(DocumentFormatter):
    """The JSON document of an answer with rings of vertices: `polygons` is [[x0, y0, x1, y1, …], …]."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = True

    def element(self, frame: FrameMasks) -> bytes:
        """Return a frame with polygons."""
        document = json.loads(encode_frame(frame))
        for written, mask in zip(document["masks"], frame.masks, strict=True):
            del written["segmentation"]
            written["size"] = list(mask.segmentation.size)
            written["polygons"] = [[n for point in ring for n in point] for ring in rings(decode(mask.segmentation))]
        return json.dumps(document, separators=(",", ":")).encode()


def rings(pixels: NDArray[np.uint8]) -> list[list[_Point]]:
    """Return the closed rings (x, y) around the pixels that are not 0, each without its first point repeated.

    A corner is where an odd number of the four pixels around it is inside, or two that touch diagonally (a double
    corner). Along a row of corners every second pair is joined by an edge, and likewise along a column.
    """
    height, width = pixels.shape
    padded = np.zeros((height + 2, width + 2), np.int8)
    padded[1:-1, 1:-1] = pixels != 0
    around = padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]
    is_diagonal = (around == 2) & (padded[:-1, :-1] == padded[1:, 1:])
    times = np.where(is_diagonal, 2, around % 2)  # (H + 1, W + 1)
    ys, xs = np.nonzero(times)
    by_row = np.repeat(np.stack([xs, ys], axis=1), times[ys, xs], axis=0)
    order = np.lexsort((by_row[:, 1], by_row[:, 0]))  # by column; stable, so doubles keep their places
    along_row = np.arange(len(by_row)) ^ 1
    along_column = np.empty(len(by_row), np.int64)
    along_column[order] = order[np.arange(len(by_row)) ^ 1]
    return _follow(by_row.tolist(), along_row.tolist(), along_column.tolist())


def _follow(points: list[list[int]], along_row: list[int], along_column: list[int]) -> list[list[_Point]]:
    """Join corners to rings, a step along a row and one along a column in turn."""
    is_used = [False] * len(points)
    found = []
    for first in range(len(points)):
        if is_used[first]:
            continue
        ring: list[_Point] = []
        at = first
        while not is_used[at]:
            for partner in (along_row, along_column):
                is_used[at] = True
                ring.append((points[at][0], points[at][1]))
                at = partner[at]
        found.append(ring)
    return found
