"""Mutated clips: mostly changed values in place, which keep the structure and reach the code behind it."""

from __future__ import annotations

import random

_WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0")
# Mutations that move what follows make most files end as `no_moov`, so few files get them.
_MOVING_SHARE = 0.1


def mutated(clip: bytes, rng: random.Random) -> bytes:
    """Return the clip with one to eight changes; half of them hit its index (everything before `mdat`)."""
    data = bytearray(clip)
    is_moving = rng.random() < _MOVING_SHARE
    end_of_index = max(16, clip.find(b"mdat"))
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(min(len(data), end_of_index) if rng.random() < 0.5 else len(data))
        if is_moving:
            _move(data, at, rng)
        else:
            _change(data, at, rng)
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def _change(data: bytearray, at: int, rng: random.Random) -> None:
    kind = rng.randrange(3)
    if kind == 0:
        data[at] = rng.randrange(256)
    elif kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    else:
        data[at : at + 4] = rng.choice(_WORDS)[: len(data) - at]


def _move(data: bytearray, at: int, rng: random.Random) -> None:
    length = rng.randrange(1, 64)
    if rng.random() < 0.5:
        del data[at : at + length]
    else:
        data[at:at] = data[at : at + length]
