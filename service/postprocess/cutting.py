"""Cut one connected mask between objects that touch or cross, by their colours and expected places."""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.postprocess.appearance import surprise
from service.postprocess.silhouettes import Bools, distances, moved, share_out
from service.postprocess.tracks import FrameObjects

_Floats = NDArray[np.float32]

# The constants were chosen on 40 crossing clips of other seeds than those of `avesformer bench --only tracks`.
# A part under this share of its track's area cannot be distinguished from noise: the object is hidden.
_LEAST_PART: Final = 0.08
# How much a pixel outside of the expected silhouette costs, per square root of the silhouette's area, and at most.
_PLACE_WEIGHT: Final = 12.0
_PLACE_LIMIT: Final = 6.0
# An object among others is looked for this far around its expected place, in square roots of its area; what the
# farthest place costs.
_FIT_REACH: Final = 0.3
_FIT_STRAY: Final = 0.3
# Bounds of a pixel's evidence: an object in front may cover any pixel, so little speaks against one. And the evidence
# of a pixel outside of the label's mask.
_EVIDENCE: Final = (-0.5, 3.0)
_OUTSIDE: Final = -1.5
# Side of the box over which costs of pixels are averaged.
_SMOOTH_PX: Final = 5


def cut(component: Bools, here: list[int], frame: FrameObjects) -> dict[int, Bools]:
    """Cut a component between the tracks that are expected in it; parts of the size of noise are left out."""
    if len(here) < 2:
        return {}
    surprises = {number: surprise(frame.bins, frame.tracks[number].colours) for number in here}
    first, second = np.partition(np.stack(list(surprises.values())), 1, axis=0)[:2]
    for number, own in surprises.items():
        _fit(number, component, np.where(own == first, second, first) - own, frame)
    weight = cv2.boxFilter(component.astype(np.float32), -1, (_SMOOTH_PX, _SMOOTH_PX), normalize=False)
    costs = []
    for number in here:
        cost = surprises[number] + _off_place(frame.expected[number], frame.tracks[number].area)
        masked = np.where(component, cost, np.float32(0.0))
        costs.append(cv2.boxFilter(masked, -1, (_SMOOTH_PX, _SMOOTH_PX), normalize=False) / np.maximum(weight, 1.0))
    best = np.argmin(np.stack(costs), axis=0)
    parts = {number: component & (best == place) for place, number in enumerate(here)}
    seen = {
        number: part for number, part in parts.items() if part.sum() >= _LEAST_PART * frame.tracks[number].area
    } or {max(parts, key=lambda number: int(parts[number].sum())): component}
    share_out(seen, component)
    return seen


def _fit(number: int, component: Bools, evidence: _Floats, frame: FrameObjects) -> None:
    """Move a track's expected silhouette to where its colours are, near to where it should be.

    Args:
        number: place of the track.
        component: in which it is expected.
        evidence: (h, w) how much likelier each pixel's colour is for this track than for the others there.
        frame: its `expected` and `moves` are changed.
    """
    expected, track = frame.expected[number], frame.tracks[number]
    if not expected.any():
        return
    reach = max(3, round(_FIT_REACH * math.sqrt(track.area)))
    values = np.where(component, np.clip(evidence, *_EVIDENCE), np.float32(_OUTSIDE))
    padded = cv2.copyMakeBorder(values, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=_OUTSIDE)
    x, y, width, height = cv2.boundingRect(expected.view(np.uint8))
    shape = expected[y : y + height, x : x + width].astype(np.float32)
    window = padded[y : y + height + 2 * reach, x : x + width + 2 * reach]
    fits = cv2.matchTemplate(window, shape, cv2.TM_CCORR) / shape.sum()
    steps = np.arange(-reach, reach + 1, dtype=np.float32) / reach
    fits -= np.float32(_FIT_STRAY) * (steps[:, None] ** 2 + steps[None] ** 2)
    down, right = np.unravel_index(int(np.argmax(fits)), fits.shape)
    move = (float(right) - reach, float(down) - reach)
    frame.expected[number] = moved(expected, move)
    frame.moves[number] = move


def _off_place(expected: Bools, area: float) -> _Floats:
    """Return the cost of each pixel's distance from a silhouette, (h, w)."""
    if not expected.any():
        return np.full(expected.shape, np.float32(_PLACE_LIMIT))
    return np.asarray(
        np.minimum(distances(expected) * np.float32(_PLACE_WEIGHT / math.sqrt(area)), _PLACE_LIMIT), np.float32
    )
