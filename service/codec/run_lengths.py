"""COCO's two forms of run lengths: the string of an answer, and the list of numbers that `rle=uncompressed` asks for.

The string is that of pycocotools (`rleToString` in its maskApi.c): groups of five bits, least significant first, bit 5
set where another group follows, each plus 48. From the fourth one on, a number is the difference to the one two before.
"""

from __future__ import annotations

from typing import Any, Final

from service.domain.result import Rle

_FIRST_CHAR: Final = 48
_GROUP_BITS: Final = 5
_GROUP: Final = 0x1F
_HAS_MORE: Final = 0x20
_IS_NEGATIVE: Final = 0x10


def run_lengths(counts: str) -> list[int]:
    """Return COCO's uncompressed counts of a compressed string: column-major, zeros first."""
    lengths: list[int] = []
    value = shift = 0
    for char in counts.encode("ascii"):
        group = char - _FIRST_CHAR
        value |= (group & _GROUP) << shift
        shift += _GROUP_BITS
        if group & _HAS_MORE:
            continue
        if group & _IS_NEGATIVE:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths


def segmentation(rle: Rle, *, is_compressed: bool) -> dict[str, Any]:
    """Return COCO's `segmentation` object; `counts` is a string or a list of run lengths."""
    return {"size": list(rle.size), "counts": rle.counts if is_compressed else run_lengths(rle.counts)}
