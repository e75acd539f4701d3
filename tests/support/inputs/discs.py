"""Pictures of coloured discs on black, and masks of them: two objects of one label that move and cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from service.domain.result import FrameMasks, Mask, Rle

SIDE_PX = 64


@dataclass(frozen=True)
class Disc:
    """A disc; x and y in pixels of a SIDE_PX picture, colour in RGB."""

    x: float
    y: float
    colour: tuple[int, int, int]
    radius: float = 9.0

    def pixels(self) -> np.ndarray:
        """bool (SIDE_PX, SIDE_PX)."""
        rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
        return (columns - self.x) ** 2 + (rows - self.y) ** 2 <= self.radius**2


YELLOW, CYAN = (255, 255, 90), (90, 255, 255)


def crossing(num: int) -> list[list[Disc]]:
    """A yellow disc that goes right and a cyan one that goes left, in front; they meet in the middle."""
    ways = np.linspace(12, SIDE_PX - 12, num)
    return [[Disc(x, 30, YELLOW), Disc(SIDE_PX - x, 34, CYAN)] for x in ways]


def picture(discs: Sequence[Disc]) -> np.ndarray:
    """uint8 (SIDE_PX, SIDE_PX, 3); later discs are in front."""
    canvas = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    for disc in discs:
        canvas[disc.pixels()] = disc.colour
    return canvas


def visible(discs: Sequence[Disc]) -> list[np.ndarray]:
    """The pixels of each disc that no later one covers."""
    shown = []
    for number, disc in enumerate(discs):
        pixels = disc.pixels()
        for later in discs[number + 1 :]:
            pixels = pixels & ~later.pixels()
        shown.append(pixels)
    return shown


def mask_of(pixels: np.ndarray, *, label: str = "dog", score: float = 0.8) -> Mask:
    """The mask of bool (H, W) pixels, not empty."""
    rle = coco.encode(np.asfortranarray(pixels, np.uint8))
    x, y, width, height = (int(side) for side in coco.toBbox(rle))
    segmentation = Rle((pixels.shape[0], pixels.shape[1]), rle["counts"].decode())
    return Mask(label, score, int(pixels.sum()), (x, y, width, height), segmentation)


def pixels_of(mask: Mask) -> np.ndarray:
    """bool (H, W)."""
    rle = {"size": list(mask.segmentation.size), "counts": mask.segmentation.counts.encode()}
    return np.asarray(coco.decode(rle), bool)


def frame_of(time_s: float, masks: Sequence[Mask]) -> FrameMasks:
    """A frame at a time."""
    return FrameMasks(time_s, time_s, round(time_s * 100), tuple(masks))
