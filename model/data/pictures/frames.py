"""Pictures and their label maps, decoded once and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.data.pictures.index import Cutout, Picture, PicturesError

# Class of pixels that count nowhere.
IGNORED = 255
# Decoded files that are kept: about 0.6 MB each.
NUM_KEPT = 4096

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledFrame:
    """A picture and what its pixels show.

    Attributes:
        frame: (H, W, 3) uint8 RGB.
        classes: (H, W) uint8: 0 background, 1 + kind, 255 ignored.
    """

    frame: Pixels
    classes: Pixels


@lru_cache(maxsize=NUM_KEPT)
def read_picture(picture: Picture) -> LabelledFrame:
    """Decode a picture and draw its label map: ignored regions first, then large objects, small ones on top.

    Raises:
        PicturesError: the file is absent, damaged or of another size than its masks.
    """
    frame = read_frame(picture.path)
    if frame.shape[:2] != (picture.height, picture.width):
        expected = f"{picture.height} x {picture.width}"
        raise PicturesError(f"{picture.path.name}: got {frame.shape[0]} x {frame.shape[1]}, expected {expected}")
    classes = np.zeros(frame.shape[:2], np.uint8)
    masks = [(region, _decode(region.segmentation, picture)) for region in picture.regions]
    for region, mask in sorted(masks, key=lambda pair: (not pair[0].is_ignored, -int(pair[1].sum()))):
        classes[mask] = IGNORED if region.is_ignored else 1 + region.kind
    return LabelledFrame(frame, classes)


@lru_cache(maxsize=NUM_KEPT)
def read_frame(path: Path) -> Pixels:
    """(H, W, 3) uint8 RGB of a file.

    Raises:
        PicturesError: absent or damaged.
    """
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise PicturesError(f"{path.name} is absent or no picture")
    return np.ascontiguousarray(pixels[..., ::-1]).astype(np.uint8, copy=False)


@lru_cache(maxsize=NUM_KEPT)
def read_cutout(cutout: Cutout) -> Pixels:
    """(H, W, 4) uint8 RGBA of a cut-out. Encoders drop the alpha of a wholly opaque picture; it is 255 then.

    Raises:
        PicturesError: absent, damaged or without colour.
    """
    pixels = cv2.imread(str(cutout.path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise PicturesError(f"{cutout.path.name} is absent or no colour picture")
    if pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2BGRA)
    return np.ascontiguousarray(pixels[..., [2, 1, 0, 3]]).astype(np.uint8, copy=False)


def squash(labelled: LabelledFrame, *, size_px: int) -> LabelledFrame:
    """The whole picture at `size_px` x `size_px`, aspect not kept, as the service scales frames."""
    return LabelledFrame(resize_frame(labelled.frame, size_px), resize_classes(labelled.classes, size_px))


def resize_frame(frame: Pixels, size_px: int) -> Pixels:
    """(H, W, C) to (size_px, size_px, C): averaging where it shrinks, bilinear where it grows."""
    is_smaller = min(frame.shape[:2]) > size_px
    resized = cv2.resize(frame, (size_px, size_px), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def resize_classes(classes: Pixels, size_px: int) -> Pixels:
    """(H, W) to (size_px, size_px), nearest."""
    return np.asarray(cv2.resize(classes, (size_px, size_px), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _decode(segmentation: Any, picture: Picture) -> NDArray[np.bool_]:
    size = [picture.height, picture.width]
    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, *size)
    else:
        code = segmentation
    if list(code["size"]) != size:
        raise PicturesError(f"{picture.path.name}: a mask has the size {code['size']}, expected {size}")
    return np.asarray(coco_mask.decode(code), np.bool_)
