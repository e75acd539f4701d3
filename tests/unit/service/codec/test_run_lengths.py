"""Run lengths as numbers equal those of the pixels, and pycocotools reads both forms alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from service.codec.answer_json import encode_frame, encode_line
from service.codec.run_lengths import run_lengths
from service.domain.result import FrameMasks, Mask, Rle

MASKS = npst.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1))


def rle_of(pixels: np.ndarray) -> Rle:
    encoded = coco.encode(np.asfortranarray(pixels))
    return Rle(pixels.shape, encoded["counts"].decode())  # type: ignore[arg-type]


def counted(pixels: np.ndarray) -> list[int]:
    """Count runs pixel by pixel, down the columns."""
    lengths, last = [0], 0
    for value in pixels.flatten(order="F").tolist():
        if value != last:
            lengths.append(0)
            last = value
        lengths[-1] += 1
    return lengths


@given(MASKS)
def test_the_lengths_are_those_of_the_pixels(pixels: np.ndarray) -> None:
    assert run_lengths(rle_of(pixels).counts) == counted(pixels)


@pytest.mark.parametrize("size", [(1, 1), (2160, 3840), (4320, 7680)])
@pytest.mark.parametrize("value", [0, 1])
def test_plain_pictures_of_every_size(size: tuple[int, int], value: int) -> None:
    pixels = np.full(size, value, np.uint8)
    assert run_lengths(rle_of(pixels).counts) == ([0] * value) + [size[0] * size[1]]


def test_long_runs_and_falling_lengths() -> None:
    pixels = np.zeros((3000, 4), np.uint8)
    pixels[1:2999, 0] = pixels[2000, 2] = pixels[2998:, 3] = 1
    assert run_lengths(rle_of(pixels).counts) == counted(pixels)


def test_a_frame_differs_in_its_counts_alone() -> None:
    pixels = np.eye(5, dtype=np.uint8)
    mask = Mask("Hündchen", 1e-7, 5, (0, 0, 5, 5), rle_of(pixels), 3)
    frame = FrameMasks(0.9375, 0.934267, 28, (mask,))
    loose, strict = json.loads(encode_frame(frame, is_compressed=False)), json.loads(encode_frame(frame))
    assert loose["masks"][0]["segmentation"].pop("counts") == counted(pixels)
    assert strict["masks"][0]["segmentation"].pop("counts") == mask.segmentation.counts
    assert loose == strict
    assert encode_line(frame, is_compressed=False).startswith(b'{"type":"frame",')
