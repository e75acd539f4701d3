"""A clip's display matrix, changed in its bytes: the picture stays, players turn it."""

from __future__ import annotations

import struct

_TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
# From the box type of a version 0 `tkhd` to its matrix (ISO/IEC 14496-12, 8.3.2).
_MATRIX_OFFSET_BYTES = 40


def rotated(data: bytes, degrees: int) -> bytes:
    """Turn the first track of an mp4 clockwise by 90, 180 or 270 degrees through its display matrix."""
    a, b, c, d = (value * 0x10000 for value in _TURNS[degrees])
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    start = data.index(b"tkhd") + 4 + _MATRIX_OFFSET_BYTES
    return data[:start] + matrix + data[start + len(matrix) :]
