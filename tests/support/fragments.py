"""Fragmented clips with other times than those that the muxer wrote."""

from __future__ import annotations

import struct

from support.hostile import find, patch


def ticks_of(data: bytes) -> dict[int, int]:
    """Ticks a second by track id, from the media headers."""
    return {number + 1: struct.unpack_from(">I", data, find(data, "mdhd", number) + 12)[0] for number in range(2)}


def later(data: bytes, seconds: dict[int, float]) -> bytes:
    """A fragmented clip whose tracks (by id) are cut from a stream that has run for so many seconds."""
    rates = ticks_of(data)
    at = data.find(b"tfdt")
    while at >= 0:
        track = struct.unpack_from(">I", data, data.rfind(b"tfhd", 0, at) + 8)[0]
        assert data[at + 4] == 1, "64 bits"
        time = struct.unpack_from(">Q", data, at + 8)[0] + round(seconds[track] * rates[track])
        data = patch(data, at + 8, struct.pack(">Q", time))
        at = data.find(b"tfdt", at + 1)
    return data
