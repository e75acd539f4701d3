"""Label Studio: masks as brush labels in its own run lengths (thi.ng's rle-pack over RGBA pixels).

A stream of bits: the number of values (32), the bits of a value less one (5), four run sizes less one (4 each); then
for each run a 1, the index of its size (2), its length less one in that many bits, its value (8).
https://github.com/thi-ng/umbrella/blob/develop/packages/rle-pack/README.md
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import cycle
from typing import Any

from service.client.answer import Answer
from service.client.convert.arrays import Pixels, mask_pixels, row_runs
from service.domain.result import FrameMasks, Mask

UrlOf = Callable[[FrameMasks], str]
# Label Studio's own choice of run sizes, in bits.
_SIZES_BITS = (3, 4, 8, 16)
_CHANNELS = 4
_OPAQUE = 255


def brush_runs(pixels: Pixels) -> list[int]:
    """Return the bytes of a brush label: the mask (height, width) in all four channels, 255 inside."""
    bits = [f"{_CHANNELS * pixels.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES_BITS)]
    for length, value in zip(row_runs(pixels), cycle((0, _OPAQUE)), strict=False):
        bits += _runs(_CHANNELS * length, value)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def _runs(length: int, value: int) -> list[str]:
    bits = []
    while length:
        part = min(length, 1 << _SIZES_BITS[-1])
        index = next(index for index, size in enumerate(_SIZES_BITS) if part <= 1 << size)
        bits.append(f"1{index:02b}{part - 1:0{_SIZES_BITS[index]}b}{value:08b}")
        length -= part
    return bits


def to_label_studio(
    answer: Answer, *, url_of: UrlOf, from_name: str = "brush", to_name: str = "image"
) -> list[dict[str, Any]]:
    """Return tasks with predictions, one for each sample with a mask, for a labelling interface with BrushLabels.

    Args:
        answer: a whole answer.
        url_of: address of a sample's frame as a picture.
        from_name: name of the `BrushLabels` tag.
        to_name: name of the `Image` tag.
    """
    names = {"from_name": from_name, "to_name": to_name}
    return [
        {
            "data": {to_name: url_of(frame)},
            "meta": {"sample_time_s": frame.sample_time_s, "index": frame.index},
            "predictions": [
                {
                    "model_version": answer.model.checkpoint,
                    "score": sum(mask.score for mask in frame.masks) / len(frame.masks),
                    "result": [{**names, **_result(mask)} for mask in frame.masks],
                }
            ],
        }
        for frame in answer.frames
        if frame.masks
    ]


def _result(mask: Mask) -> dict[str, Any]:
    height, width = mask.segmentation.size
    return {
        "id": uuid.uuid4().hex[:10],
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": mask.score,
        "value": {"format": "rle", "rle": brush_runs(mask_pixels(mask)), "brushlabels": [mask.label]},
    }
