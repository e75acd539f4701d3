"""The clean aperture of a picture track: the part of the coded picture that players show (box `clap`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.media.sandbox.container.boxes import box_header

# A visual sample entry, from its size field: width and height, then its own boxes (ISO/IEC 14496-12, 12.1.3).
_SIZE_AT, _BOXES_AT = 32, 86
_HEADER_BYTES, _CLAP_BYTES = 8, 32


@dataclass(frozen=True, slots=True)
class Aperture:
    """A part of the coded picture, pixels."""

    left: int
    top: int
    width: int
    height: int

    def fits(self, width: int, height: int) -> bool:
        """Return whether the aperture lies inside a picture of this size."""
        return self.left + self.width <= width and self.top + self.height <= height

    def crop(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Return this part of a coded picture, (H, W, ...); the whole picture if the part does not fit."""
        if not self.fits(picture.shape[1], picture.shape[0]):
            return picture
        part = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(part)


def read_aperture(entry: bytes | memoryview) -> Aperture | None:
    """Return the clean aperture of a visual sample entry; None without one, or if it is no part of the picture."""
    at = _BOXES_AT
    while at + _HEADER_BYTES <= len(entry):
        size, kind, header = box_header(entry[at : at + 16])
        if size < header or at + size > len(entry):
            return None
        if kind == "clap" and size - header >= _CLAP_BYTES:
            width, height = (int.from_bytes(entry[i : i + 2], "big") for i in (_SIZE_AT, _SIZE_AT + 2))
            return _aperture(entry[at + header : at + header + _CLAP_BYTES], width, height)
        at += size
    return None


def _aperture(fields: bytes | memoryview, width: int, height: int) -> Aperture | None:
    """Return the aperture of four fractions: width, height, and the offset of the centres right and down (12.1.4)."""
    numbers = [int.from_bytes(fields[i : i + 4], "big", signed=True) for i in range(0, _CLAP_BYTES, 4)]
    if min(numbers[1::2]) <= 0:
        return None
    shown_width, shown_height, right, down = (numbers[i] / numbers[i + 1] for i in range(0, 8, 2))
    part = Aperture(
        left=round((width - shown_width) / 2 + right),
        top=round((height - shown_height) / 2 + down),
        width=round(shown_width),
        height=round(shown_height),
    )
    is_part = part.left >= 0 and part.top >= 0 and part.width > 0 and part.height > 0 and part.fits(width, height)
    is_whole = (part.width, part.height) == (width, height)
    return part if is_part and not is_whole else None
