"""H.264 whose stream does not tell how many pictures it reorders, as many cameras and hardware encoders write it."""

from __future__ import annotations

# x264 ends the parameter set with what it tells of the reordering; these are the values that it may choose.
_VECTOR_BITS = range(6, 17)
_DEPTHS = range(1, 5)
_BUFFERS = range(1, 17)


def without_depth(data: bytes) -> bytes:
    """Return an MP4 of x264 whose sequence parameter set has its `bitstream_restriction_flag` cleared.

    The set keeps its length: zero bytes behind its end are no part of it (Rec. ITU-T H.264, 7.3.2.1 and E.1.1).
    """
    at = data.index(b"avcC") + 4
    size = int.from_bytes(data[at + 6 : at + 8], "big")
    old = data[at + 8 : at + 8 + size]
    bits = "".join(f"{value:08b}" for value in _unescaped(old)).rstrip("0")
    tail = next(tail for tail in _tails() if bits.endswith(tail))
    bits = bits.removesuffix(tail) + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    new = _escaped(bytes(int(bits[first : first + 8], 2) for first in range(0, len(bits), 8)))
    return data.replace(old, new.ljust(size, b"\0"))


def _tails() -> list[str]:
    """Every end of a parameter set of x264 that tells a depth: from the flag to the stop bit."""
    return [
        "1" + "1" + _golomb(0) * 2 + _golomb(vector) * 2 + _golomb(depth) + _golomb(buffer) + "1"
        for vector in _VECTOR_BITS
        for depth in _DEPTHS
        for buffer in _BUFFERS
    ]


def _golomb(value: int) -> str:
    """The bits of ue(v)."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _unescaped(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _escaped(payload: bytes) -> bytes:
    unit = bytearray()
    for value in payload:
        if value <= 3 and unit.endswith(b"\0\0"):
            unit.append(3)
        unit.append(value)
    return bytes(unit)
