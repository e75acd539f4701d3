"""The look of an overlay: masks as tint, glow and outline with a small label, and the sound as a strip."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.domain.result import Mask

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

# A warm amber: far from skin, grass and sky, and it reads on dark and light pictures.
_FIRST_HUE = 0.075
# Hue step between labels: neighbours in the list are far apart on the wheel.
_GOLDEN_RATIO = 0.618034
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (18, 18, 22)
_PAPER = (235, 235, 240)


@dataclass(frozen=True, slots=True)
class PaintPolicy:
    """Strength of the overlay as shares of 1, and the strip's height as a share of the frame's."""

    tint: float = 0.42
    dim: float = 0.30
    strip_height: float = 0.07
    strip_opacity: float = 0.55


class OverlayPainter:
    """Draws on frames of one size. The strip shows the whole clip's sound, with the played part bright."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        labels: Sequence[str],
        envelope: NDArray[np.float32],
        duration_s: float,
        policy: PaintPolicy | None = None,
    ) -> None:
        """Prepare to draw.

        Args:
            height: of the frames, pixels.
            width: of the frames, pixels.
            labels: all labels of the answer; each gets its own colour.
            envelope: float32 (N,) peaks of the sound in [0, 1], evenly over the clip; empty draws no strip.
            duration_s: of the clip, seconds.
            policy: looks.
        """
        self._size = (height, width)
        self._policy = policy or PaintPolicy()
        self._colours = {label: _colour(place) for place, label in enumerate(labels)}
        self._duration_s = max(duration_s, 1e-6)
        self._unit = max(1.0, min(height, width) / 360)  # line widths and letters grow with the picture
        self._bars = self._lay_bars(envelope)
        self._held_masks: Sequence[Mask] = ()
        self._held_areas: list[tuple[Mask, Picture]] = []

    def paint(self, picture: Picture, masks: Sequence[Mask], *, time_s: float) -> Picture:
        """Return a new picture, uint8 RGB (H, W, 3), with masks and strip drawn on it."""
        painted = picture.copy()
        if masks is not self._held_masks:  # many frames show the same sample
            self._held_masks, self._held_areas = masks, [(mask, self._pixels(mask)) for mask in masks]
        areas = self._held_areas
        if areas:
            self._tint(painted, areas)
        for mask, inside in areas:
            self._outline(painted, inside, self._colours[mask.label])
        for mask, inside in sorted(areas, key=lambda item: item[0].area):
            self._label(painted, mask, inside)
        self._draw_strip(painted, time_s)
        return painted

    def _pixels(self, mask: Mask) -> Picture:
        height, width = mask.segmentation.size
        rle = {"size": [height, width], "counts": mask.segmentation.counts.encode("ascii")}
        inside = np.ascontiguousarray(coco.decode(rle))
        if (height, width) != self._size:
            inside = cv2.resize(inside, self._size[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(inside, np.uint8)

    def _tint(self, painted: Picture, areas: Sequence[tuple[Mask, Picture]]) -> None:
        """Colour the sounding parts and dim the rest slightly."""
        plain = painted.copy()
        cv2.convertScaleAbs(plain, dst=painted, alpha=1 - self._policy.dim)
        for mask, inside in areas:
            x, y, width, height = cv2.boundingRect(inside)
            box = np.s_[y : y + height, x : x + width]
            colour = np.full_like(plain[box], self._colours[mask.label])
            tinted = cv2.addWeighted(plain[box], 1 - self._policy.tint, colour, self._policy.tint, 0)
            np.copyto(painted[box], tinted, where=inside[box].astype(bool)[..., None])

    def _outline(self, painted: Picture, inside: Picture, colour: Colour) -> None:
        edges, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        width = max(1, round(1.6 * self._unit))
        cv2.drawContours(painted, edges, -1, _INK, width + 2, cv2.LINE_AA)
        cv2.drawContours(painted, edges, -1, colour, width, cv2.LINE_AA)

    def _label(self, painted: Picture, mask: Mask, inside: Picture) -> None:
        text = f"{mask.label} {mask.score:.2f}"
        scale, thickness = 0.42 * self._unit, max(1, round(self._unit))
        (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, thickness)
        pad = round(4 * self._unit)
        left, top, _, _ = cv2.boundingRect(inside)
        x = max(0, min(left, self._size[1] - text_width - 2 * pad))
        y = top - text_height - below - 2 * pad - 2
        y = y if y >= 0 else min(top + 2, self._size[0] - text_height - below - 2 * pad)
        corner = (x + text_width + 2 * pad, y + text_height + below + 2 * pad)
        cv2.rectangle(painted, (x, y), corner, self._colours[mask.label], cv2.FILLED)
        cv2.putText(painted, text, (x + pad, y + pad + text_height), _FONT, scale, _INK, thickness, cv2.LINE_AA)

    def _lay_bars(self, envelope: NDArray[np.float32]) -> list[tuple[int, int, int, int]]:
        """Return the bars of the strip as x, top, right, bottom; none without sound or room."""
        height, width = self._size
        strip = round(self._policy.strip_height * height)
        step = max(2, round(3 * self._unit))
        num = width // step
        if not len(envelope) or num < 8 or strip < 6:
            return []
        edges = np.linspace(0, len(envelope), num + 1).astype(int)
        peaks = [float(envelope[start : max(start + 1, stop)].max()) for start, stop in pairwise(edges)]
        middle, reach = height - strip // 2 - 1, strip * 0.42
        bars = []
        for place, peak in enumerate(peaks):
            half = max(1, round(reach * peak))
            bars.append((place * step, middle - half, place * step + max(1, step - 2), middle + half))
        return bars

    def _draw_strip(self, painted: Picture, time_s: float) -> None:
        if not self._bars:
            return
        height, width = self._size
        strip = painted[height - round(self._policy.strip_height * height) :]
        cv2.convertScaleAbs(strip, dst=strip, alpha=1 - self._policy.strip_opacity)
        played = time_s / self._duration_s * width
        accent = next(iter(self._colours.values()), _colour(0))
        rest = tuple(round(0.45 * part) for part in _PAPER)
        for x, top, right, bottom in self._bars:
            cv2.rectangle(painted, (x, top), (right, bottom), accent if x <= played else rest, cv2.FILLED)


def _colour(place: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb((_FIRST_HUE + place * _GOLDEN_RATIO) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
