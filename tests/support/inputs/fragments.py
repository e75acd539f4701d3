"""Fragmented clips with other times than those that the muxer wrote."""

from __future__ import annotations

import struct

from support.inputs.hostile import find, patch


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


# Flags of trun (ISO/IEC 14496-12, 8.8.8): fields of its head, and fields of every row in their order.
_HEAD_FLAGS, _ROW_FLAGS, _OFFSET_FLAG = (0x1, 0x4), (0x100, 0x200, 0x400, 0x800), 0x800


def without_offsets(data: bytes) -> bytes:
    """A fragmented clip whose runs do not tell composition offsets; a `free` box takes their place."""
    at = data.find(b"trun")
    while at >= 0:
        size, flags, num = (struct.unpack_from(">I", data, at + place)[0] for place in (-4, 4, 8))
        if flags & _OFFSET_FLAG and num > 1:  # the box of one row has no room for another box's header
            first = at + 12 + 4 * sum(bool(flags & flag) for flag in _HEAD_FLAGS)
            width = 4 * sum(bool(flags & flag) for flag in _ROW_FLAGS)
            rows = [data[first + row * width : first + (row + 1) * width - 4] for row in range(num)]
            head = data[at + 8 : first]
            run = struct.pack(">I4sI", size - 4 * num, b"trun", flags & ~_OFFSET_FLAG) + head + b"".join(rows)
            data = patch(data, at - 4, run + struct.pack(">I4s", 4 * num, b"free") + bytes(4 * num - 8))
        at = data.find(b"trun", at + 1)
    return data
