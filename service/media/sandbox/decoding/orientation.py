"""Rotate and mirror decoded frames as players do, by the display matrix of their track."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_MATRIX = struct.Struct("=9i")
# A row of the matrix lies along an axis of the picture if this share of its length does: within 2.5 degrees.
_ALONG_AXIS = 0.999


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight orientations: rows and columns are swapped first, then the result is mirrored."""

    is_transposed: bool = False
    flips_columns: bool = False
    flips_rows: bool = False

    def apply(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a coded picture (H, W, ...) as players show it, (W, H, ...) if transposed; contiguous."""
        shown = picture.swapaxes(0, 1) if self.is_transposed else picture
        shown = shown[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]
        return np.ascontiguousarray(shown)


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation of a frame. Matrices other than turns by 90 degrees and mirroring are ignored."""
    # `frame.side_data` keeps its container in the frame. This reference cycle would keep pictures in memory until
    # the garbage collector runs, hundreds of frames later.
    side_data = SideDataContainer(frame)  # type: ignore[call-arg]  # the stub lacks the constructor
    data = side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData) or len(raw := bytes(data)) != _MATRIX.size:
        return UPRIGHT
    a, b, _, c, d, *_ = _MATRIX.unpack(raw)
    return orientation_from(a, b, c, d)


def orientation_from(a: float, b: float, c: float, d: float) -> Orientation:
    """Return the orientation of the matrix that shows the coded point (x, y) at (a x + c y, b x + d y)."""
    row, column = math.hypot(a, b), math.hypot(c, d)
    if not row or not column:
        return UPRIGHT
    if min(abs(a) / row, abs(d) / column) >= _ALONG_AXIS:
        return Orientation(flips_columns=a < 0, flips_rows=d < 0)
    if min(abs(b) / row, abs(c) / column) >= _ALONG_AXIS:
        return Orientation(is_transposed=True, flips_columns=c < 0, flips_rows=b < 0)
    return UPRIGHT
